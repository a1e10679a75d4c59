"""POST /v1/responses: the request (OpenAI's CreateResponse, document 2.3.0)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct

from mlx_server_nano.api.chat_request import ServiceTier, TopLogprobs
from mlx_server_nano.api.fields import NO_EFFECT, RefusedFields, only
from mlx_server_nano.api.responses_items import Conversation, Item, complete, is_reference
from mlx_server_nano.api.responses_object import ResponseObject, ResponseReasoning
from mlx_server_nano.api.responses_store import ResponseStore
from mlx_server_nano.api.responses_tools import FlatChoice, FlatTool, to_choice, to_toolset
from mlx_server_nano.api.sampling import Effort, SamplingFields, to_thinking
from mlx_server_nano.api.tools import MAX_TOOLS, ToolName
from mlx_server_nano.api.wire import decode_json
from mlx_server_nano.chat.request import AnswerFormat, CallMode, ChatRequest
from mlx_server_nano.errors import (
    InvalidRequestError,
    NotFoundError,
    PreviousResponseNotFoundError,
)
from mlx_server_nano.types import Message, Role

Text64 = Annotated[str, Meta(max_length=64)]
Text512 = Annotated[str, Meta(max_length=512)]
Summary = Literal["auto", "concise", "detailed"]
# All but the first two are about built-in tools and images, of which there are none to include anything of.
Includable = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]


class Reasoning(Struct):
    effort: Effort | None = None
    summary: Summary | None = None
    generate_summary: Summary | None = None


class TextFormat(Struct, omit_defaults=True):
    """`json_schema` needs a name and a schema."""

    type: Literal["text", "json_object", "json_schema"]
    name: ToolName | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class TextOptions(Struct):
    format: TextFormat | None = None
    verbosity: Annotated[Literal["low", "medium", "high"] | None, NO_EFFECT] = None


class ResponseStreamOptions(Struct):
    """Only with `stream: true`."""

    include_obfuscation: Annotated[bool | None, NO_EFFECT] = None


class ResponseBody(SamplingFields, kw_only=True):
    """A request for a response. `input` may be left out only with `previous_response_id`."""

    model: Annotated[str, Meta(min_length=1)]
    input: str | list[Item] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: Annotated[int, Meta(ge=16, le=2**63 - 1)] | None = None
    top_logprobs: TopLogprobs | None = None
    reasoning: Reasoning | None = None
    text: TextOptions | None = None
    tools: Annotated[list[FlatTool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: CallMode | FlatChoice | None = None
    parallel_tool_calls: bool | None = None
    include: list[Includable] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    metadata: Annotated[dict[Text64, Text512], Meta(max_length=16)] | None = None

    background: Annotated[Any, only(False)] = None
    conversation: Annotated[Any, only()] = None
    prompt: Annotated[Any, only()] = None
    context_management: Annotated[Any, only([])] = None
    moderation: Annotated[Any, only()] = None

    max_tool_calls: Annotated[int | None, NO_EFFECT] = None  # it counts calls of built-in tools
    user: Annotated[str | None, NO_EFFECT] = None
    service_tier: Annotated[ServiceTier | None, NO_EFFECT] = None
    safety_identifier: Annotated[Text64 | None, NO_EFFECT] = None
    prompt_cache_key: Annotated[str | None, NO_EFFECT] = None
    prompt_cache_retention: Annotated[str | None, NO_EFFECT] = None
    prompt_cache_options: Annotated[dict[str, Any] | None, NO_EFFECT] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseOptions:
    """What the answer's encoder must know beside the chat request.

    echo: a response with the request's fields as it repeats them. history: the items before `input`.
    summarize: reasoning goes out as a summary; seal: as `encrypted_content` too.
    """

    model: str
    stream: bool
    store: bool
    echo: ResponseObject
    history: tuple[Item, ...]
    input: tuple[Item, ...]
    summarize: bool
    seal: bool


_DECODER: Final = msgspec.json.Decoder(ResponseBody)
_REFUSED: Final = RefusedFields(ResponseBody)
_LOGPROBS: Final = "message.output_text.logprobs"
_SEALED: Final = "reasoning.encrypted_content"


def decode(body: bytes, store: ResponseStore) -> tuple[ChatRequest, ResponseOptions]:
    """Raises InvalidRequestError, NotFoundError for unknown references; `param` is the path of the field at fault."""
    wire = decode_json(_DECODER, body)
    _check(wire)
    history, items = _history(wire, store), tuple(_input(wire, store))
    toolset, shown = to_toolset(wire.tools)
    include = frozenset(wire.include or ())
    request = ChatRequest(
        messages=_messages(wire.instructions, history, items),
        tools=toolset.tools,
        custom=toolset.custom,
        choice=to_choice(wire.tool_choice, toolset, parallel=wire.parallel_tool_calls is not False),
        answer=_answer_format(wire.text),
        thinking=to_thinking(wire.reasoning.effort if wire.reasoning is not None else None),
        sampling=wire.to_sampling(),
        max_tokens=wire.max_output_tokens,
        stop=wire.stop_strings(),
        truncate=wire.truncation == "auto",
        logprobs=(wire.top_logprobs or 0) if wire.top_logprobs or _LOGPROBS in include else None,
    )
    return request, ResponseOptions(
        model=wire.model,
        stream=bool(wire.stream),
        store=wire.store is not False,
        echo=_echo(wire, shown),
        history=history,
        input=items,
        summarize=_summary(wire.reasoning) is not None,
        seal=_SEALED in include,
    )


def _check(wire: ResponseBody) -> None:
    _REFUSED.check(wire)
    if wire.stream_options is not None and not wire.stream:
        raise InvalidRequestError("`stream_options` is only allowed when `stream` is true.", param="stream_options")


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
        return AnswerFormat(param="text.format")
    for field in ("name", "schema"):
        if getattr(asked, field) is None:
            raise InvalidRequestError(f"Missing required field: `text.format.{field}`.", param=f"text.format.{field}")
    return AnswerFormat(param="text.format", schema=asked.schema)


def _summary(reasoning: Reasoning | None) -> Summary | None:
    return (reasoning.summary or reasoning.generate_summary) if reasoning is not None else None


def _echo(wire: ResponseBody, tools: list[dict[str, Any]]) -> ResponseObject:
    """A response with all that it must repeat, with OpenAI's default where the request has none."""
    text = wire.text or TextOptions()
    shown: dict[str, Any] = {"format": msgspec.to_builtins(text.format or TextFormat("text"))}
    if text.verbosity is not None:
        shown["verbosity"] = text.verbosity
    return ResponseObject(
        instructions=wire.instructions,
        max_output_tokens=wire.max_output_tokens,
        max_tool_calls=wire.max_tool_calls,
        metadata=wire.metadata or {},
        model=wire.model,
        parallel_tool_calls=wire.parallel_tool_calls is not False,
        presence_penalty=wire.presence_penalty or 0.0,
        frequency_penalty=wire.frequency_penalty or 0.0,
        previous_response_id=wire.previous_response_id,
        prompt_cache_key=wire.prompt_cache_key,
        reasoning=ResponseReasoning(
            effort=wire.reasoning.effort if wire.reasoning is not None else None, summary=_summary(wire.reasoning)
        ),
        safety_identifier=wire.safety_identifier,
        store=wire.store is not False,
        temperature=1.0 if wire.temperature is None else wire.temperature,
        text=shown,
        tool_choice="auto" if wire.tool_choice is None else msgspec.to_builtins(wire.tool_choice),
        tools=tools,
        top_logprobs=wire.top_logprobs or 0,
        top_p=1.0 if wire.top_p is None else wire.top_p,
        truncation=wire.truncation or "disabled",
        user=UNSET if wire.user is None else wire.user,
    )
