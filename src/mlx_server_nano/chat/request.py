"""What a client asks of a chat, in the words of no dialect."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from mlx_server_nano.types import Message, Sampling, Tool


class CallMode(StrEnum):
    """Whether the model may, must or must not call a tool."""

    NONE = "none"
    AUTO = "auto"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolChoice:
    """only: the names of the tools that may be called; empty: all. parallel: more than one call may come in an answer."""

    mode: CallMode = CallMode.AUTO
    only: frozenset[str] = frozenset()
    parallel: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerFormat:
    """What the content of the answer must be: what a grammar (llguidance's Lark) or a regular expression describes, else JSON
    that validates against the schema; without one, any JSON object. param: the request's field that asks for it."""

    param: str
    schema: dict[str, Any] | None = None
    grammar: str | None = None
    regex: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """How much the model should reason. enabled, effort: None: as the model is used to. budget: tokens of reasoning at most."""

    enabled: bool | None = None
    effort: str | None = None
    budget: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """Every chat dialect decodes to this.

    custom: the names of the tools whose calls carry text (see `chat.custom`). answer: None: free text. template_kwargs go to
    the chat template and win over what `thinking` stands for. truncate: leave out old messages if they are too many for the
    model. For the rest see `GenerationRequest`.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    custom: frozenset[str] = frozenset()
    choice: ToolChoice = field(default_factory=ToolChoice)
    answer: AnswerFormat | None = None
    thinking: Thinking = field(default_factory=Thinking)
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    truncate: bool = False
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    logprobs: int | None = None
