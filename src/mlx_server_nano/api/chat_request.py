"""POST /v1/chat/completions: the request (OpenAI's CreateChatCompletionRequest, document 2.3.0)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from mlx_server_nano.api.chat_messages import WireMessage, to_message
from mlx_server_nano.api.sampling import Effort, PositiveInt, SamplingFields, to_thinking
from mlx_server_nano.api.tools import MAX_TOOLS, ToolName, WireChoice, WireTool, to_choice, to_tools
from mlx_server_nano.api.wire import decode_json
from mlx_server_nano.chat.request import AnswerFormat, ChatRequest
from mlx_server_nano.config import Settings
from mlx_server_nano.errors import InvalidRequestError, UnsupportedParameterError


class StreamOptions(Struct):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class JsonSchema(Struct):
    name: ToolName
    schema: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatBody(SamplingFields, kw_only=True):
    """The fields that the server knows. Those typed Any are refused unless they ask for nothing (see `_REFUSED`); those
    under `For OpenAI's own service` have no meaning here and are accepted."""

    model: Annotated[str, Meta(min_length=1)]
    messages: Annotated[list[WireMessage], Meta(min_length=1)]
    max_completion_tokens: PositiveInt | None = None
    max_tokens: PositiveInt | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    reasoning_effort: Effort | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    tools: Annotated[list[WireTool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: str | WireChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    guided_regex: str | None = None
    guided_grammar: str | None = None
    thinking_budget: Annotated[int, Meta(ge=0)] | None = None

    functions: Any = None
    function_call: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None

    # For OpenAI's own service.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions:
    """What the answer's encoder must know beside the generation request."""

    model: str
    stream: bool
    include_usage: bool


_DECODER: Final = msgspec.json.Decoder(ChatBody)

# Fields that change the answer in ways the server does not offer, with the values that ask for nothing.
_REFUSED: Final[dict[str, Callable[[Any], bool]]] = {
    "functions": lambda value: value == [],
    "function_call": lambda value: value == "none",
    "modalities": lambda value: value == ["text"],
    "audio": lambda value: False,
    "prediction": lambda value: False,
    "web_search_options": lambda value: False,
}

# Arguments that rendering a chat template sets itself.
_RESERVED_KWARGS: Final = frozenset(
    ("template", "chat_template", "messages", "tools", "documents", "add_generation_prompt", "tokenize")
)


def decode(body: bytes, settings: Settings) -> tuple[ChatRequest, ChatOptions]:
    """Raises InvalidRequestError; `param` is the path of the field at fault."""
    wire = decode_json(_DECODER, body)
    _check_combinations(wire)
    limit = wire.max_tokens if wire.max_completion_tokens is None else wire.max_completion_tokens
    tools = to_tools(wire.tools)
    request = ChatRequest(
        messages=tuple(to_message(message, f"messages.{i}") for i, message in enumerate(wire.messages)),
        tools=tools,
        choice=to_choice(wire.tool_choice, tools, parallel=wire.parallel_tool_calls is not False),
        answer=_answer_format(wire),
        thinking=to_thinking(wire.reasoning_effort, wire.thinking_budget),
        template_kwargs=_template_kwargs(wire),
        sampling=wire.to_sampling(),
        max_tokens=settings.default_max_tokens if limit is None else limit,
        stop=wire.stop_strings(),
        n=wire.n or 1,
        logprobs=(wire.top_logprobs or 0) if wire.logprobs else None,
    )
    include_usage = wire.stream_options is not None and bool(wire.stream_options.include_usage)
    return request, ChatOptions(model=wire.model, stream=bool(wire.stream), include_usage=include_usage)


def _answer_format(wire: ChatBody) -> AnswerFormat | None:
    asked = wire.response_format
    wanted = [name for name in ("guided_regex", "guided_grammar") if getattr(wire, name) is not None]
    if asked is not None and asked.type != "text":
        wanted.append("response_format")
    if len(wanted) > 1:
        raise InvalidRequestError(f"`{wanted[0]}` and `{wanted[1]}` exclude each other.", param=wanted[0])
    if asked is None or asked.type == "text":
        return AnswerFormat(regex=wire.guided_regex, grammar=wire.guided_grammar) if wanted else None
    if asked.type == "json_object":
        return AnswerFormat()
    if asked.json_schema is None:
        raise InvalidRequestError(
            "Missing required field: `response_format.json_schema`.", param="response_format.json_schema"
        )
    return AnswerFormat(schema=asked.json_schema.schema or {})


def _check_combinations(wire: ChatBody) -> None:
    for name, asks_for_nothing in _REFUSED.items():
        value = getattr(wire, name)
        if value is not None and not asks_for_nothing(value):
            raise UnsupportedParameterError(f"`{name}` is not supported by this server.", param=name)
    if wire.stream_options is not None and not wire.stream:
        raise InvalidRequestError("`stream_options` is only allowed when `stream` is true.", param="stream_options")
    if wire.top_logprobs is not None and not wire.logprobs:
        raise InvalidRequestError("`top_logprobs` is only allowed when `logprobs` is true.", param="top_logprobs")


def _template_kwargs(wire: ChatBody) -> dict[str, Any]:
    given = wire.chat_template_kwargs or {}
    if reserved := _RESERVED_KWARGS & given.keys():
        name = min(reserved)
        raise InvalidRequestError(f"`{name}` is set by the server.", param=f"chat_template_kwargs.{name}")
    try:
        msgspec.msgpack.encode(given)
    except (OverflowError, RecursionError):
        raise InvalidRequestError("A number is out of range.", param="chat_template_kwargs") from None
    return given
