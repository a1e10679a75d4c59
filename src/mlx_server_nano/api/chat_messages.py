"""The messages of a chat request, from OpenAI's wire to `types.Message`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from mlx_server_nano.api.fields import only
from mlx_server_nano.chat.custom import custom_arguments
from mlx_server_nano.errors import InvalidRequestError, UnsupportedParameterError
from mlx_server_nano.types import Message, Role, ToolCall

_OTHER_MEDIA: Final = frozenset(
    (
        "image_url",
        "image",
        "input_image",
        "input_audio",
        "audio",
        "audio_url",
        "video",
        "video_url",
        "file",
        "input_file",
    )
)


class Part(Struct):
    """Text, or in an assistant's message a refusal."""

    type: Annotated[str, Meta(extra_json_schema={"enum": ["text", "refusal"]})]
    text: str | None = None
    refusal: str | None = None


class CalledFunction(Struct):
    """arguments: JSON text."""

    name: str
    arguments: str


class CalledCustom(Struct):
    name: str
    input: str


class ChatToolCall(Struct):
    id: str
    type: Literal["function", "custom"] = "function"
    function: CalledFunction | None = None
    custom: CalledCustom | None = None


class ChatMessage(Struct):
    """A message of any role. All but the assistant's need content; a tool's needs `tool_call_id`. reasoning_content and
    reasoning are two names for the same text."""

    role: Annotated[str, Meta(extra_json_schema={"enum": [*Role]})]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ChatToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    function_call: Annotated[Any, only()] = None


def to_message(wire: ChatMessage, path: str) -> Message:
    """`path` is where the message stands in the body (`messages.0`). Raises InvalidRequestError."""
    role = _role(wire.role, f"{path}.role")
    content = _content(wire.content, role, f"{path}.content")
    if role is Role.ASSISTANT:
        return _assistant(wire, content, path)
    if content is None:
        raise InvalidRequestError(f"A {role} message needs content.", param=f"{path}.content")
    if role is Role.TOOL and wire.tool_call_id is None:
        raise InvalidRequestError("A tool message needs `tool_call_id`.", param=f"{path}.tool_call_id")
    return Message(
        role=role, content=content, name=wire.name, tool_call_id=wire.tool_call_id if role is Role.TOOL else None
    )


def _role(text: str, path: str) -> Role:
    try:
        return Role(text)
    except ValueError:
        hint = " The function role is deprecated: use tool." if text == "function" else ""
        raise InvalidRequestError(f"The role must be one of {', '.join(Role)}.{hint}", param=path) from None


def _assistant(wire: ChatMessage, content: str | None, path: str) -> Message:
    if wire.function_call is not None:
        raise UnsupportedParameterError(
            "`function_call` is deprecated: use `tool_calls`.", param=f"{path}.function_call"
        )
    content = wire.refusal if content is None else content
    reasoning = wire.reasoning if wire.reasoning_content is None else wire.reasoning_content
    calls = tuple(_tool_call(call, f"{path}.tool_calls.{i}") for i, call in enumerate(wire.tool_calls or ()))
    if content is None and reasoning is None and not calls:
        raise InvalidRequestError("An assistant message needs content or tool_calls.", param=f"{path}.content")
    return Message(role=Role.ASSISTANT, content=content, reasoning=reasoning, tool_calls=calls, name=wire.name)


def _tool_call(wire: ChatToolCall, path: str) -> ToolCall:
    if wire.type == "function" and wire.function is not None:
        return ToolCall(id=wire.id, name=wire.function.name, arguments=wire.function.arguments)
    if wire.type == "custom" and wire.custom is not None:
        return ToolCall(id=wire.id, name=wire.custom.name, arguments=custom_arguments(wire.custom.input))
    raise InvalidRequestError(f"Missing required field: `{path}.{wire.type}`.", param=f"{path}.{wire.type}")


def _content(content: str | list[Part] | None, role: Role, path: str) -> str | None:
    if content is None or isinstance(content, str):
        return content
    if not content:
        raise InvalidRequestError("A list of content parts must not be empty.", param=path)
    return join_parts(content, ("text", "refusal") if role is Role.ASSISTANT else ("text",), path)


def join_parts(parts: Sequence[Part], types: Collection[str], path: str) -> str:
    """The text of content parts, which must be of these types. They are joined by line breaks, so that separate texts don't
    run into each other. Raises InvalidRequestError."""
    return "\n".join(_part(part, types, f"{path}.{i}") for i, part in enumerate(parts))


def _part(part: Part, types: Collection[str], path: str) -> str:
    if part.type in _OTHER_MEDIA:
        raise InvalidRequestError(
            f"This server is text-only: content parts of type {part.type} are not supported.", param=f"{path}.type"
        )
    if part.type not in types:
        raise InvalidRequestError(f"Unknown type of content part: {part.type!r}.", param=f"{path}.type")
    field = "refusal" if part.type == "refusal" else "text"
    text: str | None = getattr(part, field)
    if text is None:
        raise InvalidRequestError(f"Missing required field: `{path}.{field}`.", param=f"{path}.{field}")
    return text
