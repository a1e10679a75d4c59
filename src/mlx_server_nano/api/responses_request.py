"""POST /v1/responses: the request (OpenAI's CreateResponse, document 2.3.0)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from mlx_server_nano.api.responses_items import Conversation, Item, complete, is_reference
from mlx_server_nano.api.responses_store import ResponseStore
from mlx_server_nano.api.responses_tools import FlatChoice, FlatTool, Toolset, to_choice, to_toolset
from mlx_server_nano.api.sampling import Effort, SamplingFields, to_thinking
from mlx_server_nano.api.tools import MAX_TOOLS, ToolName
from mlx_server_nano.api.wire import decode_json
from mlx_server_nano.chat.request import AnswerFormat, ChatRequest
from mlx_server_nano.config import Settings
from mlx_server_nano.errors import (
    InvalidRequestError,
    NotFoundError,
    PreviousResponseNotFoundError,
    UnsupportedParameterError,
)
from mlx_server_nano.types import Message, Role

Text64 = Annotated[str, Meta(max_length=64)]
Text512 = Annotated[str, Meta(max_length=512)]
Summary = Literal["auto", "concise", "detailed"]


class Reasoning(Struct):
    effort: Effort | None = None
    summary: Summary | None = None
    generate_summary: Summary | None = None


class TextFormat(Struct, omit_defaults=True):
    type: Literal["text", "json_object", "json_schema"]
    name: ToolName | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class TextOptions(Struct):
    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class StreamOptions(Struct):
    include_obfuscation: bool | None = None


class ResponseBody(SamplingFields, kw_only=True):
    """The fields that the server knows. Those typed Any are refused unless they ask for nothing (see `_REFUSED`); those
    under `For OpenAI's own service` have no meaning here and are accepted."""

    model: Annotated[str, Meta(min_length=1)]
    input: str | list[Item] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: Annotated[int, Meta(ge=16, le=2**63 - 1)] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    reasoning: Reasoning | None = None
    text: TextOptions | None = None
    tools: Annotated[list[FlatTool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: str | FlatChoice | None = None
    parallel_tool_calls: bool | None = None
    include: list[str] | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    metadata: Annotated[dict[Text64, Text512], Meta(max_length=16)] | None = None

    background: Any = None
    truncation: Any = None
    conversation: Any = None
    prompt: Any = None
    context_management: Any = None
    moderation: Any = None

    # For OpenAI's own service. max_tool_calls counts calls of built-in tools.
    max_tool_calls: int | None = None
    user: str | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"] | None = None
    safety_identifier: Text64 | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseOptions:
    """What the answer's encoder must know beside the chat request.

    echo: the request's fields as the response repeats them. history: the items before `input`. custom: the names of custom
    tools. summarize: reasoning goes out as a summary; seal: as `encrypted_content` too.
    """

    model: str
    stream: bool
    store: bool
    echo: dict[str, object]
    history: tuple[Item, ...]
    input: tuple[Item, ...]
    custom: frozenset[str]
    summarize: bool
    seal: bool


_DECODER: Final = msgspec.json.Decoder(ResponseBody)
_LOGPROBS: Final = "message.output_text.logprobs"
_SEALED: Final = "reasoning.encrypted_content"
# The rest is about built-in tools and images, of which there are none to include anything of.
_INCLUDABLE: Final = frozenset(
    (
        _LOGPROBS,
        _SEALED,
        "file_search_call.results",
        "web_search_call.results",
        "web_search_call.action.sources",
        "message.input_image.image_url",
        "computer_call_output.output.image_url",
        "code_interpreter_call.outputs",
    )
)

# Fields that change the answer in ways the server does not offer, with the values that ask for nothing.
_REFUSED: Final[dict[str, Callable[[Any], bool]]] = {
    "background": lambda value: value is False,
    "truncation": lambda value: value == "disabled",
    "conversation": lambda value: False,
    "prompt": lambda value: False,
    "context_management": lambda value: value == [],
    "moderation": lambda value: False,
}


def decode(body: bytes, settings: Settings, store: ResponseStore) -> tuple[ChatRequest, ResponseOptions]:
    """Raises InvalidRequestError, NotFoundError for unknown references; `param` is the path of the field at fault."""
    wire = decode_json(_DECODER, body)
    _check(wire)
    history, items = _history(wire, store), tuple(_input(wire, store))
    toolset = to_toolset(wire.tools)
    include = frozenset(wire.include or ())
    request = ChatRequest(
        messages=_messages(wire.instructions, history, items),
        tools=toolset.tools,
        choice=to_choice(wire.tool_choice, toolset, parallel=wire.parallel_tool_calls is not False),
        answer=_answer_format(wire.text),
        thinking=to_thinking(wire.reasoning.effort if wire.reasoning is not None else None),
        sampling=wire.to_sampling(),
        max_tokens=settings.default_max_tokens if wire.max_output_tokens is None else wire.max_output_tokens,
        stop=wire.stop_strings(),
        logprobs=(wire.top_logprobs or 0) if wire.top_logprobs or _LOGPROBS in include else None,
    )
    return request, ResponseOptions(
        model=wire.model,
        stream=bool(wire.stream),
        store=wire.store is not False,
        echo=_echo(wire, toolset, settings),
        history=history,
        input=items,
        custom=toolset.custom,
        summarize=_summary(wire.reasoning) is not None,
        seal=_SEALED in include,
    )


def _check(wire: ResponseBody) -> None:
    for name, asks_for_nothing in _REFUSED.items():
        value = getattr(wire, name)
        if value is not None and not asks_for_nothing(value):
            shown = f" {value!r}" if isinstance(value, str) else ""
            raise UnsupportedParameterError(f"`{name}`{shown} is not supported by this server.", param=name)
    if wire.stream_options is not None and not wire.stream:
        raise InvalidRequestError("`stream_options` is only allowed when `stream` is true.", param="stream_options")
    for i, name in enumerate(wire.include or ()):
        if name not in _INCLUDABLE:
            raise InvalidRequestError(f"{name!r} can't be included.", param=f"include.{i}")


def _history(wire: ResponseBody, store: ResponseStore) -> tuple[Item, ...]:
    if wire.previous_response_id is None:
        return ()
    try:
        return store.get(wire.previous_response_id).conversation
    except NotFoundError as error:
        raise PreviousResponseNotFoundError(error.message, param="previous_response_id") from None


def _input(wire: ResponseBody, store: ResponseStore) -> Iterator[Item]:
    if not wire.input and wire.previous_response_id is None:
        raise InvalidRequestError("Missing required field: `input`.", param="input")
    if isinstance(wire.input, str):
        yield complete(Item(role=Role.USER, content=wire.input), "input")
        return
    for i, item in enumerate(wire.input or ()):
        if not is_reference(item):
            yield complete(item, f"input.{i}")
        elif item.id is not None and (found := store.item(item.id)) is not None:
            yield found
        else:
            raise NotFoundError(f"There is no stored item {item.id!r}.", param=f"input.{i}.id")


def _messages(instructions: str | None, history: tuple[Item, ...], items: tuple[Item, ...]) -> tuple[Message, ...]:
    """Instructions hold for one response: those of earlier ones are not in the history."""
    conversation = Conversation()
    for item in history:
        conversation.add(item, "previous_response_id")
    for i, item in enumerate(items):
        conversation.add(item, f"input.{i}")
    system = () if instructions is None else (Message(role=Role.SYSTEM, content=instructions),)
    return (*system, *conversation.messages)


def _answer_format(text: TextOptions | None) -> AnswerFormat | None:
    asked = text.format if text is not None else None
    if asked is None or asked.type == "text":
        return None
    if asked.type == "json_object":
        return AnswerFormat()
    for field in ("name", "schema"):
        if getattr(asked, field) is None:
            raise InvalidRequestError(f"Missing required field: `text.format.{field}`.", param=f"text.format.{field}")
    return AnswerFormat(schema=asked.schema)


def _summary(reasoning: Reasoning | None) -> Summary | None:
    return (reasoning.summary or reasoning.generate_summary) if reasoning is not None else None


def _echo(wire: ResponseBody, toolset: Toolset, settings: Settings) -> dict[str, object]:
    """Every field that a response must repeat, with OpenAI's default where the request has none."""
    text = wire.text or TextOptions()
    default = 1.0 if settings.default_temperature is None else settings.default_temperature
    shown: dict[str, object] = {"format": msgspec.to_builtins(text.format or TextFormat("text"))}
    if text.verbosity is not None:
        shown["verbosity"] = text.verbosity
    echo = {
        "background": False,
        "instructions": wire.instructions,
        "max_output_tokens": wire.max_output_tokens,
        "max_tool_calls": wire.max_tool_calls,
        "metadata": wire.metadata or {},
        "model": wire.model,
        "parallel_tool_calls": wire.parallel_tool_calls is not False,
        "presence_penalty": wire.presence_penalty or 0.0,
        "frequency_penalty": wire.frequency_penalty or 0.0,
        "previous_response_id": wire.previous_response_id,
        "prompt_cache_key": wire.prompt_cache_key,
        "reasoning": {
            "effort": wire.reasoning.effort if wire.reasoning is not None else None,
            "summary": _summary(wire.reasoning),
        },
        "safety_identifier": wire.safety_identifier,
        "service_tier": "default",
        "store": wire.store is not False,
        "temperature": default if wire.temperature is None else wire.temperature,
        "text": shown,
        "tool_choice": "auto" if wire.tool_choice is None else msgspec.to_builtins(wire.tool_choice),
        "tools": toolset.echo,
        "top_logprobs": wire.top_logprobs or 0,
        "top_p": 1.0 if wire.top_p is None else wire.top_p,
        "truncation": "disabled",
    }
    return echo if wire.user is None else echo | {"user": wire.user}
