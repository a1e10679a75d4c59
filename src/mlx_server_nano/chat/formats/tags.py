"""Calls made of tags: Qwen3-Coder and later, Nemotron, Step, Seed-OSS, GLM, LongCat, Hunyuan V3, MiniMax, DeepSeek's DSML,
MiniCPM, Muse, Kimi K3."""

from __future__ import annotations

from typing import Final

from mlx_server_nano.chat.formats.base import (
    THINK,
    Bare,
    Block,
    Format,
    Header,
    JsonCall,
    Reasoning,
    Route,
    TagArguments,
    TextCall,
)


def _functions(line: bool) -> TextCall:
    """`<function=f><parameter=k>v</parameter></function>`"""
    arguments = TagArguments(open=("<parameter=",), close="</parameter>", line=line)
    return TextCall(open=("<function=",), name_end=(">",), arguments=arguments, close=("</function>",))


def _pairs(end: str, prefix: str = "", suffix: str = "", name_end: tuple[str, ...] = ()) -> TextCall:
    """`f<arg_key>k</arg_key><arg_value>v</arg_value>`"""
    key, value = f"{prefix}arg_key{suffix}>", f"{prefix}arg_value{suffix}>"
    arguments = TagArguments(open=(f"<{key}",), key_end=f"</{key}", value_open=f"<{value}", close=f"</{value}")
    return TextCall(name=r"[^\s<>{}\"]", name_end=name_end, name_stops=(f"<{key}", *end.split()), arguments=arguments)


def _invoke(prefix: str, arguments: TagArguments) -> TextCall:
    """`<invoke name="f">...</invoke>`, prefix between `<` or `</` and the name."""
    return TextCall(
        open=(f'<{prefix}invoke name="',),
        name=_QUOTED,
        quoted=True,
        head_end=">",
        written='{name}"',
        arguments=arguments,
        close=(f"</{prefix}invoke>",),
    )


_QUOTED: Final = r'[^"\n]'

# Qwen3-Coder leaves the opening <tool_call> out at times, hence the bare block.
QWEN_XML: Final = Format(
    name="qwen-xml",
    signs=(("<tool_call>", "<function=", "<parameter="),),
    reasoning=THINK,
    blocks=(
        Block(open=("<tool_call>",), close=("</tool_call>",), calls=(_functions(True), JsonCall()), pad="\n"),
        Block(open=("<function=",), close=("</tool_call>",), calls=(_functions(True),), bare=Bare.LINE),
    ),
    ignored=("<|im_end|>",),
)

SEED_OSS: Final = Format(
    name="seed-oss",
    signs=(("<seed:tool_call>",), ("seed:think",)),
    reasoning=Reasoning(open=("<seed:think>",), close=("</seed:think>",)),
    blocks=(Block(open=("<seed:tool_call>",), close=("</seed:tool_call>",), calls=(_functions(False),), pad="\n"),),
    ignored=("<seed:eos>",),
)

GLM_4: Final = Format(
    name="glm-4",
    signs=(("<tool_call>", "<arg_key>"),),
    reasoning=THINK,
    blocks=(Block(open=("<tool_call>",), close=("</tool_call>",), calls=(_pairs("</tool_call>"),)),),
)

LONGCAT: Final = Format(
    name="longcat",
    signs=(("<longcat_tool_call>",),),
    reasoning=Reasoning(open=("<longcat_think>", "<think>"), close=("</longcat_think>", "</think>")),
    blocks=(
        Block(
            open=("<longcat_tool_call>",),
            close=("</longcat_tool_call>",),
            calls=(_pairs("</longcat_tool_call>", "longcat_"), JsonCall()),
        ),
    ),
)


def _hunyuan(suffix: str) -> Block:
    close = (f"</tool_call{suffix}>", f"<end_of_tool_call{suffix}>")
    call = _pairs(" ".join(close), suffix=suffix, name_end=(f"<tool_sep{suffix}>",))
    return Block(open=(f"<tool_call{suffix}>",), close=close, calls=(call,))


HUNYUAN_V3: Final = Format(
    name="hunyuan-v3",
    signs=(("<tool_calls", "<tool_sep"),),
    reasoning=THINK,
    blocks=(_hunyuan(""), _hunyuan(":opensource")),
    ignored=("<tool_calls>", "</tool_calls>", "<tool_calls:opensource>", "</tool_calls:opensource>"),
)


def _dsml(name: str, signs: tuple[str, ...], *words: str) -> Format:
    tag = "｜DSML｜"
    arguments = TagArguments(
        open=(f'<{tag}parameter name="',),
        quoted=True,
        close=f"</{tag}parameter>",
        wrapper="arguments",
        attributes=' string="{is_string}"',
    )
    call = _invoke(tag, arguments)
    blocks = (
        Block(open=(f"<{tag}{w}>",), close=(f"</{tag}{w}>",), calls=(call,), several=True, pad="\n") for w in words
    )
    return Format(name=name, signs=(signs,), reasoning=THINK, blocks=tuple(blocks))


DEEPSEEK_V3_2: Final = _dsml("deepseek-v3.2", ("｜DSML｜", "function_calls"), "function_calls", "tool_calls")
DEEPSEEK_V4: Final = _dsml("deepseek-v4", ("｜DSML｜",), "tool_calls", "function_calls")

_M2_CALL: Final = _invoke("", TagArguments(open=('<parameter name="',), quoted=True, close="</parameter>"))
MINIMAX_M2: Final = Format(
    name="minimax-m2",
    signs=(("<minimax:tool_call>",),),
    reasoning=THINK,
    blocks=(
        Block(
            open=("<minimax:tool_call>",), close=("</minimax:tool_call>",), calls=(_M2_CALL,), several=True, pad="\n"
        ),
    ),
)

_M3: Final = "]<]minimax[>["
_M3_CALL: Final = TextCall(
    open=(f'{_M3}<invoke name="',),
    name=_QUOTED,
    quoted=True,
    head_end=">",
    written='{name}"',
    arguments=TagArguments(open=(f"{_M3}<",), close=f"{_M3}</{{key}}>", nested=True, separator=""),
    close=(f"{_M3}</invoke>",),
)
MINIMAX_M3: Final = Format(
    name="minimax-m3",
    signs=((_M3,), ("]<]", "[>[", "mm:think")),
    reasoning=Reasoning(open=("<mm:think>",), close=("</mm:think>",)),
    blocks=(
        Block(open=(f"{_M3}<tool_call>",), close=(f"{_M3}</tool_call>",), calls=(_M3_CALL,), several=True, pad="\n"),
    ),
)

_MINICPM_CALL: Final = TextCall(
    name=_QUOTED,
    quoted=True,
    head_end=">",
    written='{name}"',
    arguments=TagArguments(
        open=('<param name="', '<paramname="'), quoted=True, close="</param>", cdata=True, separator=""
    ),
    close=("</function>",),
)
MINICPM_5: Final = Format(
    name="minicpm5",
    signs=(("<function name=", "<param name="),),
    reasoning=THINK,
    blocks=(Block(open=('<function name="', '<functionname="'), single=True, calls=(_MINICPM_CALL,)),),
)

_MUSE_CALL: Final = _invoke(
    "atem:", TagArguments(open=('<atem:parameter name="',), quoted=True, close="</atem:parameter>")
)
MUSE: Final = Format(
    name="muse",
    signs=(("<atem:function_calls>",),),
    blocks=(Block(open=("<atem:function_calls>",), close=("</atem:function_calls>",), calls=(_MUSE_CALL,), pad="\n"),),
    headers=(
        Header(
            open=("<|start|>",),
            end="<|message|>",
            initial=("to=",),
            routes=((r"to=self\b", Route.REASONING), ("", Route.CONTENT)),
            writes={
                Route.REASONING: " to=self<|message|>",
                Route.CALL: " to={name}<|message|>",
                Route.CONTENT: " to=user<|message|>",
            },
            next="<|eom|><|start|>assistant",
        ),
    ),
    ends=("<|eom|>", "<|eot|>"),
)

_KIMI_CALL: Final = TextCall(
    open=('<|open|>call tool="',),
    name=_QUOTED,
    quoted=True,
    head_end="<|sep|>",
    written='{name}" index="{index}"',
    arguments=TagArguments(
        open=('<|open|>argument key="',),
        quoted=True,
        key_end="<|sep|>",
        close="<|close|>argument<|sep|>",
        attributes=' type="{type}"',
        separator="",
    ),
    close=("<|close|>call<|sep|>",),
)
KIMI_K3: Final = Format(
    name="kimi-k3",
    signs=(("<|open|>", "<|sep|>"),),
    reasoning=Reasoning(
        open=("<|open|>think<|sep|>",),
        close=("<|close|>think<|sep|>",),
        also_ends=("<|open|>response<|sep|>",),
        anywhere=True,
    ),
    blocks=(
        Block(open=("<|open|>tools<|sep|>",), close=("<|close|>tools<|sep|>",), several=True, calls=(_KIMI_CALL,)),
    ),
    ignored=(
        *(
            "<|open|>response<|sep|>",
            "<|close|>response<|sep|>",
            "<|open|> response <|sep|>",
            "<|close|> response <|sep|>",
        ),
        *("<|close|>message<|sep|>", "<|close|>argument<|sep|>", "<|close|>call<|sep|>"),
    ),
)
