"""Calls as JSON objects that hold name and arguments: Hermes, Qwen, Granite, SmolLM, Command R, Phi, Llama 3 and others."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from mlx_server_nano.chat.formats.base import FUNCTION_TAG, THINK, Bare, Block, Format, JsonCall, Reasoning

GRANITE_3: Final = Format(
    name="granite-3",
    signs=(("<|start_of_role|>", "<|tool_call|>"),),
    reasoning=Reasoning(open=("<think>", "Here is my thought process:"), close=("</think>", "Here is my response:")),
    blocks=(
        Block(open=("<|tool_call|>",), calls=(JsonCall(),), brackets=True, listed=True),
        Block(open=("<tool_call>",), close=("</tool_call>",), calls=(JsonCall(),), brackets=True),
    ),
    ignored=("<response>", "</response>", "<|end_of_text|>"),
)

GRANITE_20B: Final = Format(
    name="granite-20b-functioncalling",
    signs=(("<function_call>", "[function_call]"),),
    blocks=(Block(open=("<function_call>",), calls=(JsonCall(),), pad=" "),),
)

_LIST: Final = Block(open=("<tool_calls>",), close=("</tool_calls>",), calls=(JsonCall(),), brackets=True, listed=True)
HUNYUAN: Final = Format(
    name="hunyuan",
    signs=(("<tool_calls>", "<answer>"),),
    reasoning=THINK,
    blocks=(_LIST,),
    ignored=("<answer>", "</answer>"),
)
JAMBA: Final = Format(name="jamba", signs=(("<tool_calls>", "<|bom|>"),), blocks=(replace(_LIST, pad="\n"),))

XLAM: Final = Format(
    name="xlam",
    signs=(("xlam",),),
    blocks=(
        Block(open=("[",), calls=(JsonCall(),), brackets=True, listed=True, bare=Bare.ANYWHERE),
        Block(
            open=("[TOOL_CALLS]", "<tool_call>", "```json\n"),
            close=("</tool_call>", "```"),
            calls=(JsonCall(),),
            brackets=True,
        ),
    ),
)

INTERNLM: Final = Format(
    name="internlm2",
    signs=(("<|action_start|>", "<|plugin|>"),),
    blocks=(Block(open=("<|action_start|><|plugin|>",), close=("<|action_end|>",), calls=(JsonCall(),)),),
)

PHI_4_MINI: Final = Format(
    name="phi-4-mini",
    signs=(("functools[",), ("<|tool|>", "<|/tool|>")),
    blocks=(Block(open=("functools",), calls=(JsonCall(),), brackets=True, listed=True),),
)

APERTUS: Final = Format(
    name="apertus",
    signs=(("<|tools_prefix|>",),),
    blocks=(
        Block(
            open=("<|tools_prefix|>",),
            close=("<|tools_suffix|>",),
            calls=(JsonCall(name_is_key=True),),
            brackets=True,
            listed=True,
        ),
    ),
)

GIGACHAT: Final = Format(
    name="gigachat",
    signs=(("<|role_sep|>", "function call"), ("<|function_call|>",)),
    blocks=(Block(open=("<|function_call|>", "<|message_sep|>\n\nfunction call<|role_sep|>\n"), calls=(JsonCall(),)),),
    ignored=("<|message_sep|>", "</s>"),
)

COMMAND_R7B: Final = Format(
    name="command-r7b",
    signs=(("<|START_ACTION|>",),),
    reasoning=Reasoning(
        open=("<|START_THINKING|>",),
        close=("<|END_THINKING|>",),
        also_ends=("<|START_RESPONSE|>", "<|START_TEXT|>"),
        anywhere=True,
    ),
    blocks=(
        Block(
            open=("<|START_ACTION|>", "Action:\n```json\n"),
            close=("<|END_ACTION|>", "```"),
            calls=(JsonCall(name=("tool_name",), arguments=("parameters",), id=()),),
            brackets=True,
            listed=True,
            pad="\n",
        ),
    ),
    ignored=(
        *("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
        *("<|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
    ),
)

# https://github.com/NousResearch/Hermes-Function-Calling
HERMES: Final = Format(
    name="hermes",
    # The second: SmolLM3, whose template as it circulates leaves its tools out.
    signs=(("<tool_call>", "</tool_call>"), ("Reasoning Mode: ", "<|im_start|>")),
    reasoning=THINK,
    blocks=(Block(open=("<tool_call>",), close=("</tool_call>",), calls=(JsonCall(),), brackets=True, pad="\n"),),
    ignored=("<|im_end|>",),
)

LLAMA_3: Final = Format(
    name="llama-3",
    signs=(("<|python_tag|>",), ("<|start_header_id|>", '"parameters"')),
    blocks=(
        Block(open=("{",), calls=(JsonCall(arguments=("parameters", "arguments")),), bare=Bare.ANYWHERE),
        Block(open=("<|python_tag|>",), calls=(JsonCall(),), brackets=True),
        Block(open=("<function=",), calls=(FUNCTION_TAG,), bare=Bare.ANYWHERE),
    ),
    ignored=("<|eom_id|>", "<|eot_id|>"),
)
