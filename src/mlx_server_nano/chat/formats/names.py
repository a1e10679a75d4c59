"""Calls with the name before JSON arguments: Mistral, DeepSeek V3 and V3.1, Kimi K2, gpt-oss, Functionary."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from mlx_server_nano.chat.formats.base import (
    FUNCTION_TAG,
    THINK,
    Bare,
    Block,
    Call,
    Format,
    Header,
    Id,
    JsonArguments,
    JsonCall,
    Reasoning,
    Route,
    TextCall,
)

# Tokenizers v1 to v7 write a JSON list, v11 `name[CALL_ID]id[ARGS]{}`, v13 and later `name[ARGS]{}`; some leave [ARGS] out.
# https://github.com/mistralai/mistral-common
# One format for each, since the grammar must write what the template shows; each reads them all.
_MISTRAL_LIST: Final = JsonCall()
_MISTRAL_NAMED: Final = TextCall(
    name=r"[\w.\-]", name_end=("[ARGS]",), name_stops=("{",), id_open="[CALL_ID]", arguments=JsonArguments()
)

_MISTRAL_WITH_ID: Final = replace(_MISTRAL_NAMED, written="{name}[CALL_ID]{id}")


def _mistral(name: str, signs: tuple[tuple[str, ...], ...], *calls: Call) -> Format:
    listed = isinstance(calls[0], JsonCall)
    return Format(
        name=name,
        signs=signs,
        reasoning=Reasoning(open=("[THINK]",), close=("[/THINK]",), anywhere=True),
        blocks=(Block(open=("[TOOL_CALLS]",), calls=calls, brackets=True, listed=listed, single=True),),
        ids=Id.NINE,
    )


MISTRAL_V11: Final = _mistral("mistral-v11", (("[TOOL_CALLS]", "[CALL_ID]"),), _MISTRAL_WITH_ID, _MISTRAL_LIST)
MISTRAL: Final = _mistral("mistral", (("[TOOL_CALLS]", "[ARGS]"), ("[INST]", "[THINK]")), _MISTRAL_NAMED, _MISTRAL_LIST)
MISTRAL_V7: Final = _mistral("mistral-v7", (("[TOOL_CALLS]",),), _MISTRAL_LIST, _MISTRAL_NAMED)


def _deepseek(name: str, sign: str, call: TextCall) -> Format:
    opening, close = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
    block = Block(open=(opening,), close=(close,), several=True, calls=(call,))
    return Format(name=name, signs=((opening, sign),), reasoning=THINK, blocks=(block,))


_V3_CALL: Final = TextCall(
    open=("<｜tool▁call▁begin｜>function<｜tool▁sep｜>",),
    name_end=("\n```json\n", "```json\n", "```json"),
    arguments=JsonArguments(suffix="\n```"),
    close=("<｜tool▁call▁end｜>",),
)
_V3_1_CALL: Final = TextCall(
    open=("<｜tool▁call▁begin｜>",),
    name_end=("<｜tool▁sep｜>",),
    arguments=JsonArguments(),
    close=("<｜tool▁call▁end｜>",),
)
DEEPSEEK_V3: Final = _deepseek("deepseek-v3", "```json", _V3_CALL)
DEEPSEEK_V3_1: Final = _deepseek("deepseek-v3.1", "<｜tool▁sep｜>", _V3_1_CALL)

_KIMI_CALL: Final = TextCall(
    open=("<|tool_call_begin|>",),
    head=r"(?:functions\.)?(?P<name>.+?)(?P<index>:\d+)?",
    written="functions.{name}:{index}",
    name_end=("<|tool_call_argument_begin|>",),
    arguments=JsonArguments(),
    close=("<|tool_call_end|>",),
)
KIMI_K2: Final = Format(
    name="kimi-k2",
    signs=(("<|tool_calls_section_begin|>",),),
    reasoning=THINK,
    blocks=(
        Block(
            open=("<|tool_calls_section_begin|>",),
            close=("<|tool_calls_section_end|>",),
            several=True,
            calls=(_KIMI_CALL,),
        ),
    ),
)

# https://cookbook.openai.com/articles/openai-harmony
GPT_OSS: Final = Format(
    name="gpt-oss",
    signs=(("<|channel|>", "<|message|>"),),
    headers=(
        Header(
            open=("<|start|>", "<|channel|>"),
            end="<|message|>",
            initial=("to=",),
            routes=(
                (r"to=(?:functions\.)?(?!(?:assistant|user|all)\b)(?P<name>[^\s<]+)", Route.CALL),
                (r"analysis(?!.*<\|channel\|>)", Route.REASONING),
                ("", Route.CONTENT),
            ),
            writes={
                Route.REASONING: "<|channel|>analysis<|message|>",
                Route.CALL: "<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>",
                Route.CONTENT: "<|channel|>final<|message|>",
            },
            next="<|end|><|start|>assistant",
        ),
    ),
    ends=("<|end|>", "<|call|>", "<|return|>"),
)

_TO_ANYONE: Final = ((r"^all$", Route.CONTENT), (r"^(?P<name>.+)$", Route.CALL))
FUNCTIONARY: Final = Format(
    name="functionary",
    signs=((">>>all",), ("<|recipient|>",)),
    blocks=(
        Block(open=("<function=",), calls=(FUNCTION_TAG,), bare=Bare.ANYWHERE),
        Block(open=("[",), calls=(JsonCall(),), brackets=True, listed=True, bare=Bare.ANYWHERE),
    ),
    headers=(
        Header(open=(">>>",), end="\n", initial=("",), routes=_TO_ANYONE, bare=True, longest=64),
        Header(open=("<|recipient|>",), end="<|content|>", routes=_TO_ANYONE),
    ),
    ignored=("<|from|>assistant\n",),
)
