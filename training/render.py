"""Conversations to text, through the very template that is shipped with the model, so that training and serving agree."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

TEMPLATE_FILE: Final = Path(__file__).with_name("chat_template.jinja")
END_OF_TURN: Final = "<|im_end|>"

Message = Mapping[str, Any]
Tool = Mapping[str, Any]


@cache
def _template() -> Template:
    """Set up as transformers does it: trimmed blocks, JSON that keeps non-ASCII characters."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(TEMPLATE_FILE.read_text())


def render(messages: Sequence[Message], tools: Sequence[Tool] = (), **options: Any) -> str:
    """The text of a conversation. `options` go to the template: add_generation_prompt, enable_thinking."""
    return _template().render(messages=messages, tools=tools, **options)


def prompt(messages: Sequence[Message], tools: Sequence[Tool], thinking: bool) -> str:
    """What the model reads before it writes the next assistant turn."""
    return render(messages, tools, add_generation_prompt=True, enable_thinking=thinking)


def split_last(messages: Sequence[Message], tools: Sequence[Tool], thinking: bool) -> tuple[str, str]:
    """The prompt of the last message, an assistant's, and what the model is to write, end of turn included."""
    given = prompt(messages[:-1], tools, thinking)
    whole = render(messages, tools)
    if not whole.startswith(given):
        raise ValueError("the last turn does not continue its own prompt")
    return given, whole[len(given) :].removesuffix("\n")
