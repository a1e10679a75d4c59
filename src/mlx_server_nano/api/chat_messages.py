"""The messages of a chat request, from OpenAI's wire to `types.Message`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from msgspec import Struct

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
    type: str
    text: str | None = None
    refusal: str | None = None


class Function(Struct):
    name: str
    arguments: str


class WireToolCall(Struct):
    id: str
    type: str = "function"
    function: Function | None = None


class WireMessage(Struct):
    """All roles in one; `to_message` says what each of them needs. reasoning_content and reasoning are two names that
    servers and clients use for the same text."""

    role: str
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[WireToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    function_call: Any = None


def to_message(wire: WireMessage, path: str) -> Message:
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


def _assistant(wire: WireMessage, content: str | None, path: str) -> Message:
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


def _tool_call(wire: WireToolCall, path: str) -> ToolCall:
    if wire.type != "function":
        raise UnsupportedParameterError("Only calls of type function are supported.", param=f"{path}.type")
    if wire.function is None:
        raise InvalidRequestError(f"Missing required field: `{path}.function`.", param=f"{path}.function")
    return ToolCall(id=wire.id, name=wire.function.name, arguments=wire.function.arguments)


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
