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

_FUNCTION: Final = TextCall(
    open=("<function=",),
    name_end=(">",),
    arguments=TagArguments(open=("<parameter=",), close="</parameter>", line=True),
    close=("</function>",),
)

# Qwen3-Coder leaves the opening <tool_call> out at times, hence the bare block.
QWEN_XML: Final = Format(
    name="qwen-xml",
    signs=(("<tool_call>", "<function=", "<parameter="),),
    reasoning=THINK,
    blocks=(
        Block(open=("<tool_call>",), close=("</tool_call>",), calls=(_FUNCTION, JsonCall()), pad="\n"),
        Block(open=("<function=",), close=("</tool_call>",), calls=(_FUNCTION,), bare=Bare.LINE),
    ),
    ignored=("<|im_end|>",),
)

SEED_OSS: Final = Format(
    name="seed-oss",
    signs=(("<seed:tool_call>",), ("seed:think",)),
    reasoning=Reasoning(open=("<seed:think>",), close=("</seed:think>",)),
    blocks=(
        Block(
            open=("<seed:tool_call>",),
            close=("</seed:tool_call>",),
            calls=(
                TextCall(
                    open=("<function=",),
                    name_end=(">",),
                    arguments=TagArguments(open=("<parameter=",), close="</parameter>"),
                    close=("</function>",),
                ),
            ),
            pad="\n",
        ),
    ),
    ignored=("<seed:eos>",),
)


def _key_value(prefix: str = "", suffix: str = "") -> TagArguments:
    """`<arg_key>k</arg_key><arg_value>v</arg_value>`"""
    return TagArguments(
        open=(f"<{prefix}arg_key{suffix}>",),
        key_end=f"</{prefix}arg_key{suffix}>",
        value_open=f"<{prefix}arg_value{suffix}>",
        close=f"</{prefix}arg_value{suffix}>",
    )


_NAME: Final = r"[^\s<>{}\"]"

GLM_4: Final = Format(
    name="glm-4",
    signs=(("<tool_call>", "<arg_key>"),),
    reasoning=THINK,
    blocks=(
        Block(
            open=("<tool_call>",),
            close=("</tool_call>",),
            calls=(TextCall(name=_NAME, name_stops=("<arg_key>", "</tool_call>"), arguments=_key_value()),),
        ),
    ),
)

LONGCAT: Final = Format(
    name="longcat",
    signs=(("<longcat_tool_call>",),),
    reasoning=Reasoning(open=("<longcat_think>", "<think>"), close=("</longcat_think>", "</think>")),
    blocks=(
        Block(
            open=("<longcat_tool_call>",),
            close=("</longcat_tool_call>",),
            calls=(
                TextCall(
                    name=_NAME,
                    name_stops=("<longcat_arg_key>", "</longcat_tool_call>"),
                    arguments=_key_value("longcat_"),
                ),
                JsonCall(),
            ),
        ),
    ),
)

HUNYUAN_V3: Final = Format(
    name="hunyuan-v3",
    signs=(("<tool_calls", "<tool_sep"),),
    reasoning=THINK,
    blocks=tuple(
        Block(
            open=(f"<tool_call{suffix}>",),
            close=(f"</tool_call{suffix}>", f"<end_of_tool_call{suffix}>"),
            calls=(
                TextCall(
                    name=_NAME,
                    name_end=(f"<tool_sep{suffix}>",),
                    name_stops=(f"<arg_key{suffix}>", f"</tool_call{suffix}>", f"<end_of_tool_call{suffix}>"),
                    arguments=_key_value(suffix=suffix),
                ),
            ),
        )
        for suffix in ("", ":opensource")
    ),
    ignored=("<tool_calls>", "</tool_calls>", "<tool_calls:opensource>", "</tool_calls:opensource>"),
)


def _invoke(prefix: str = "") -> TextCall:
    """`<invoke name="f"><parameter name="k">v</parameter></invoke>`"""
    return TextCall(
        open=(f'<{prefix}invoke name="',),
        name=r'[^"\n]',
        quoted=True,
        head_end=">",
        written='{name}"',
        arguments=TagArguments(
            open=(f'<{prefix}parameter name="',),
            quoted=True,
            close=f"</{prefix}parameter>",
            wrapper="arguments" if prefix == "｜DSML｜" else "",
            attributes=' string="{is_string}"' if prefix == "｜DSML｜" else "",
        ),
        close=(f"</{prefix}invoke>",),
    )


def _dsml(name: str, signs: tuple[str, ...], *words: str) -> Format:
    call = _invoke("｜DSML｜")
    return Format(
        name=name,
        signs=(signs,),
        reasoning=THINK,
        blocks=tuple(
            Block(open=(f"<｜DSML｜{word}>",), close=(f"</｜DSML｜{word}>",), calls=(call,), several=True, pad="\n")
            for word in words
        ),
    )


DEEPSEEK_V3_2: Final = _dsml("deepseek-v3.2", ("｜DSML｜", "function_calls"), "function_calls", "tool_calls")
DEEPSEEK_V4: Final = _dsml("deepseek-v4", ("｜DSML｜",), "tool_calls", "function_calls")

MINIMAX_M2: Final = Format(
    name="minimax-m2",
    signs=(("<minimax:tool_call>",),),
    reasoning=THINK,
    blocks=(
        Block(
            open=("<minimax:tool_call>",), close=("</minimax:tool_call>",), calls=(_invoke(),), several=True, pad="\n"
        ),
    ),
)

_M3: Final = "]<]minimax[>["
MINIMAX_M3: Final = Format(
    name="minimax-m3",
    signs=((_M3,), ("]<]", "[>[", "mm:think")),
    reasoning=Reasoning(open=("<mm:think>",), close=("</mm:think>",)),
    blocks=(
        Block(
            open=(f"{_M3}<tool_call>",),
            close=(f"{_M3}</tool_call>",),
            several=True,
            calls=(
                TextCall(
                    open=(f'{_M3}<invoke name="',),
                    name=r'[^"\n]',
                    quoted=True,
                    head_end=">",
                    written='{name}"',
                    arguments=TagArguments(open=(f"{_M3}<",), close=f"{_M3}</{{key}}>", nested=True, separator=""),
                    close=(f"{_M3}</invoke>",),
                ),
            ),
            pad="\n",
        ),
    ),
)

MINICPM_5: Final = Format(
    name="minicpm5",
    signs=(("<function name=", "<param name="),),
    reasoning=THINK,
    blocks=(
        Block(
            open=('<function name="', '<functionname="'),
            single=True,
            calls=(
                TextCall(
                    name=r'[^"\n]',
                    quoted=True,
                    head_end=">",
                    written='{name}"',
                    arguments=TagArguments(
                        open=('<param name="', '<paramname="'), quoted=True, close="</param>", cdata=True, separator=""
                    ),
                    close=("</function>",),
                ),
            ),
        ),
    ),
)

MUSE: Final = Format(
    name="muse",
    signs=(("<atem:function_calls>",),),
    blocks=(
        Block(open=("<atem:function_calls>",), close=("</atem:function_calls>",), calls=(_invoke("atem:"),), pad="\n"),
    ),
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
        Block(
            open=("<|open|>tools<|sep|>",),
            close=("<|close|>tools<|sep|>",),
            several=True,
            calls=(
                TextCall(
                    open=('<|open|>call tool="',),
                    name=r'[^"\n]',
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
                ),
            ),
        ),
    ),
    ignored=(
        "<|open|>response<|sep|>",
        "<|close|>response<|sep|>",
        "<|open|> response <|sep|>",
        "<|close|> response <|sep|>",
        "<|close|>message<|sep|>",
        "<|close|>argument<|sep|>",
        "<|close|>call<|sep|>",
    ),
)
