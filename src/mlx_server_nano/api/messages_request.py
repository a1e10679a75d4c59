"""POST /v1/messages and /v1/messages/count_tokens: the requests (Anthropic's MessageCreateParams, SDK 2.14, beta ones too)."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from mlx_server_nano.api.fields import NO_EFFECT, RefusedFields, only
from mlx_server_nano.api.messages_content import Block, MessageParam, to_messages
from mlx_server_nano.api.messages_tools import ToolChoiceParam, ToolParam, to_choice, to_tools
from mlx_server_nano.api.sampling import PositiveInt, Probability, StopText
from mlx_server_nano.api.tools import MAX_TOOLS
from mlx_server_nano.api.wire import decode_json
from mlx_server_nano.chat.request import AnswerFormat, ChatRequest, Thinking
from mlx_server_nano.errors import InvalidRequestError, UnsupportedThreadError
from mlx_server_nano.types import Sampling


class WireThinking(Struct):
    """`enabled` needs `budget_tokens`. adaptive: the model decides how much. display: `omitted` leaves the text of thinking out
    of the answer."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: PositiveInt | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputFormat(Struct):
    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(Struct):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class PromptBody(Struct, kw_only=True):
    """What makes a prompt. `cache_control` is accepted wherever it stands: prompts are cached anyway."""

    model: Annotated[str, Meta(min_length=1)]
    messages: Annotated[list[MessageParam], Meta(min_length=1)]
    system: str | list[Block] | None = None
    tools: Annotated[list[ToolParam], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoiceParam | None = None
    thinking: WireThinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None

    compaction: Annotated[Any, only()] = None
    container: Annotated[Any, only({})] = None
    mcp_servers: Annotated[Any, only([])] = None
    thread: Annotated[Any, only()] = None

    betas: Annotated[Any, NO_EFFECT] = None
    cache_control: Annotated[Any, NO_EFFECT] = None
    context_management: Annotated[Any, NO_EFFECT] = None
    diagnostics: Annotated[Any, NO_EFFECT] = None
    inference_geo: Annotated[Any, NO_EFFECT] = None
    metadata: Annotated[Any, NO_EFFECT] = None
    service_tier: Annotated[Any, NO_EFFECT] = None
    speed: Annotated[Any, NO_EFFECT] = None


class MessagesBody(PromptBody, kw_only=True):
    """A message to be answered."""

    max_tokens: PositiveInt
    temperature: Probability | None = None
    top_p: Probability | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    stop_sequences: Annotated[list[StopText], Meta(max_length=64)] | None = None
    stream: bool | None = None


_MESSAGES: Final = msgspec.json.Decoder(MessagesBody)
_PROMPT: Final = msgspec.json.Decoder(PromptBody)
_REFUSED: Final = RefusedFields(PromptBody)


def decode(body: bytes) -> tuple[ChatRequest, MessagesBody]:
    """Raises InvalidRequestError; `param` is the path of the field at fault."""
    wire = decode_json(_MESSAGES, body)
    sampling = Sampling(temperature=wire.temperature, top_p=wire.top_p, top_k=wire.top_k)
    return _request(wire, wire.max_tokens, sampling, tuple(wire.stop_sequences or ())), wire


def decode_prompt(body: bytes) -> tuple[ChatRequest, PromptBody]:
    """A request whose prompt alone matters. Raises as `decode`."""
    wire = decode_json(_PROMPT, body)
    return _request(wire, 1, Sampling(), ()), wire


def _request(wire: PromptBody, max_tokens: int, sampling: Sampling, stop: tuple[str, ...]) -> ChatRequest:
    if wire.thread is not None:
        raise UnsupportedThreadError("`thread` is not supported: send the whole conversation.", param="thread")
    _REFUSED.check(wire)
    tools = to_tools(wire.tools)
    output = wire.output_config or OutputConfig()
    if None not in (output.format, wire.output_format) and output.format != wire.output_format:
        raise InvalidRequestError(
            "`output_config.format` and `output_format` name different formats: give one of them.",
            param="output_format",
        )
    asked = output.format or wire.output_format
    param = "output_format" if output.format is None else "output_config.format"
    return ChatRequest(
        messages=to_messages(wire.system, wire.messages),
        tools=tools,
        choice=to_choice(wire.tool_choice, tools),
        answer=None if asked is None else AnswerFormat(param=param, schema=asked.schema),
        thinking=_thinking(wire.thinking, output.effort),
        sampling=sampling,
        max_tokens=max_tokens,
        stop=stop,
    )


def _thinking(wire: WireThinking | None, effort: str | None) -> Thinking:
    """Without the field, as the model is used to."""
    if wire is None:
        return Thinking(effort=effort)
    if wire.type == "enabled" and wire.budget_tokens is None:
        raise InvalidRequestError("Missing required field: `thinking.budget_tokens`.", param="thinking.budget_tokens")
    return Thinking(enabled=wire.type != "disabled", effort=effort, budget=wire.budget_tokens)
