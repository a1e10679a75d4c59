"""Calls as code, or nearly: Llama 4, Gemma 3, LFM2, OLMo 3 (Python), FunctionGemma and Gemma 4."""

from __future__ import annotations

from typing import Final

from mlx_server_nano.chat.formats.base import THINK, Bare, Block, Format, LiteralArguments, Reasoning, TextCall

_PYTHON: Final = TextCall(name=r"[\w.\-]", name_end=("(",), arguments=LiteralArguments(assign="="), close=(")",))

LFM2: Final = Format(
    name="lfm2",
    signs=(("<|tool_call_start|>",),),
    reasoning=THINK,
    blocks=(
        Block(
            open=("<|tool_call_start|>",), close=("<|tool_call_end|>",), calls=(_PYTHON,), brackets=True, listed=True
        ),
    ),
)

OLMO_3: Final = Format(
    name="olmo3",
    signs=(("<function_calls>",),),
    reasoning=THINK,
    blocks=(Block(open=("<function_calls>",), close=("</function_calls>",), calls=(_PYTHON,), several=True, pad=""),),
)

PYTHONIC: Final = Format(
    name="pythonic",
    signs=(("[func_name",),),
    reasoning=THINK,
    blocks=(
        Block(open=("[",), calls=(_PYTHON,), brackets=True, listed=True, bare=Bare.LINE),
        Block(open=("<|python_start|>",), close=("<|python_end|>",), calls=(_PYTHON,), brackets=True, listed=True),
    ),
)


def _gemma(quote: str) -> TextCall:
    return TextCall(
        open=("call:",),
        name=r"[\w.\-]",
        name_end=("{",),
        arguments=LiteralArguments(assign=":", raw=quote),
        close=("}",),
    )


FUNCTION_GEMMA: Final = Format(
    name="functiongemma",
    signs=(("<start_function_call>",),),
    blocks=(Block(open=("<start_function_call>",), close=("<end_function_call>",), calls=(_gemma("<escape>"),)),),
)

GEMMA_4: Final = Format(
    name="gemma-4",
    signs=(("<|tool_call>", "<tool_call|>"),),
    reasoning=Reasoning(
        open=("<|channel>thought\n", "<|channel>thought", "<|channel>"), close=("<channel|>",), anywhere=True
    ),
    blocks=(Block(open=("<|tool_call>",), close=("<tool_call|>",), calls=(_gemma('<|"|>'),)),),
    ignored=("<turn|>",),
)
