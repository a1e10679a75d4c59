"""POST /v1/chat/completions: the request (OpenAI's CreateChatCompletionRequest, document 2.3.0)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from mlx_server_nano.api.chat_messages import ChatMessage, to_message
from mlx_server_nano.api.fields import NO_EFFECT, RefusedFields, only
from mlx_server_nano.api.sampling import Effort, PositiveInt, SamplingFields, to_thinking
from mlx_server_nano.api.tools import MAX_TOOLS, ChatTool, ChatToolChoice, ToolName, to_choice, to_toolset
from mlx_server_nano.api.wire import decode_json
from mlx_server_nano.chat.request import AnswerFormat, CallMode, ChatRequest
from mlx_server_nano.errors import InvalidRequestError
from mlx_server_nano.types import RESERVED_TEMPLATE_KWARGS

ServiceTier = Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"]


TopLogprobs = Annotated[int, Meta(ge=0, le=20)]
ThinkingBudget = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class StreamOptions(Struct):
    """Only with `stream: true`."""

    include_usage: bool | None = None
    include_obfuscation: Annotated[bool | None, NO_EFFECT] = None


class JsonSchema(Struct):
    name: ToolName
    schema: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(Struct):
    """`json_schema` needs the field of that name. Excludes `guided_regex` and `guided_grammar`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatFields(SamplingFields, kw_only=True):
    """All of a chat completion but the model."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    max_completion_tokens: PositiveInt | None = None
    max_tokens: Annotated[PositiveInt | None, Meta(description="`max_completion_tokens` wins over it.")] = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[TopLogprobs | None, Meta(description="Only with `logprobs: true`.")] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    reasoning_effort: Effort | None = None
    chat_template_kwargs: Annotated[dict[str, Any] | None, Meta(description="Go to the chat template as they are.")] = (
        None
    )

    tools: Annotated[list[ChatTool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: CallMode | ChatToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    guided_regex: Annotated[str | None, Meta(description="A regular expression that the answer must match.")] = None
    guided_grammar: Annotated[
        str | None, Meta(description="A grammar (llguidance's Lark) that the answer must follow.")
    ] = None
    thinking_budget: Annotated[ThinkingBudget | None, Meta(description="Tokens of reasoning at most.")] = None

    functions: Annotated[Any, only([])] = None
    function_call: Annotated[Any, only("none")] = None
    modalities: Annotated[Any, only(["text"])] = None
    audio: Annotated[Any, only()] = None
    prediction: Annotated[Any, only()] = None
    web_search_options: Annotated[Any, only()] = None

    user: Annotated[str | None, NO_EFFECT] = None
    metadata: Annotated[dict[str, Any] | None, NO_EFFECT] = None
    store: Annotated[bool | None, NO_EFFECT] = None
    service_tier: Annotated[ServiceTier | None, NO_EFFECT] = None
    prompt_cache_key: Annotated[str | None, NO_EFFECT] = None
    safety_identifier: Annotated[str | None, NO_EFFECT] = None
    verbosity: Annotated[Literal["low", "medium", "high"] | None, NO_EFFECT] = None


class ChatBody(ChatFields, kw_only=True):
    """A chat completion. Every field but `model` and `messages` may be null, which means its default."""

    model: Annotated[str, Meta(min_length=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions:
    """What the answer's encoder must know beside the generation request."""

    model: str
    stream: bool
    include_usage: bool


_DECODER: Final = msgspec.json.Decoder(ChatBody)
_REFUSED: Final = RefusedFields(ChatFields)


def decode(body: bytes) -> tuple[ChatRequest, ChatOptions]:
    """Raises InvalidRequestError; `param` is the path of the field at fault."""
    wire = decode_json(_DECODER, body)
    include_usage = wire.stream_options is not None and bool(wire.stream_options.include_usage)
    options = ChatOptions(model=wire.model, stream=bool(wire.stream), include_usage=include_usage)
    return to_request(wire), options


def to_request(wire: ChatFields) -> ChatRequest:
    """Raises as `decode`."""
    _check_combinations(wire)
    limit = wire.max_tokens if wire.max_completion_tokens is None else wire.max_completion_tokens
    toolset = to_toolset(wire.tools)
    return ChatRequest(
        messages=tuple(to_message(message, f"messages.{i}") for i, message in enumerate(wire.messages)),
        tools=toolset.tools,
        custom=toolset.custom,
        choice=to_choice(wire.tool_choice, toolset, parallel=wire.parallel_tool_calls is not False),
        answer=_answer_format(wire),
        thinking=to_thinking(wire.reasoning_effort, wire.thinking_budget),
        template_kwargs=_template_kwargs(wire),
        sampling=wire.to_sampling(),
        max_tokens=limit,
        stop=wire.stop_strings(),
        n=wire.n or 1,
        logprobs=(wire.top_logprobs or 0) if wire.logprobs else None,
    )


def _answer_format(wire: ChatFields) -> AnswerFormat | None:
    asked = wire.response_format
    wanted = [name for name in ("guided_regex", "guided_grammar") if getattr(wire, name) is not None]
    if asked is not None and asked.type != "text":
        wanted.append("response_format")
    if len(wanted) > 1:
        raise InvalidRequestError(f"`{wanted[0]}` and `{wanted[1]}` exclude each other.", param=wanted[0])
    if asked is None or asked.type == "text":
        if not wanted:
            return None
        return AnswerFormat(param=wanted[0], regex=wire.guided_regex, grammar=wire.guided_grammar)
    if asked.type == "json_object":
        return AnswerFormat(param="response_format")
    if asked.json_schema is None:
        raise InvalidRequestError(
            "Missing required field: `response_format.json_schema`.", param="response_format.json_schema"
        )
    return AnswerFormat(param="response_format", schema=asked.json_schema.schema or {})


def _check_combinations(wire: ChatFields) -> None:
    _REFUSED.check(wire)
    if wire.stream_options is not None and not wire.stream:
        raise InvalidRequestError("`stream_options` is only allowed when `stream` is true.", param="stream_options")
    if wire.top_logprobs is not None and not wire.logprobs:
        raise InvalidRequestError("`top_logprobs` is only allowed when `logprobs` is true.", param="top_logprobs")


def _template_kwargs(wire: ChatFields) -> dict[str, Any]:
    given = wire.chat_template_kwargs or {}
    if reserved := RESERVED_TEMPLATE_KWARGS & given.keys():
        name = min(reserved)
        raise InvalidRequestError(f"`{name}` is set by the server.", param=f"chat_template_kwargs.{name}")
    try:
        msgspec.msgpack.encode(given)
    except (OverflowError, RecursionError):
        raise InvalidRequestError("A number is out of range.", param="chat_template_kwargs") from None
    return given
