"""The messages and the system prompt of Anthropic's wire (MessageParam) as `types.Message`s."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from mlx_server_nano.api.messages_thinking import recall
from mlx_server_nano.errors import InvalidRequestError
from mlx_server_nano.types import Message, Role, ToolCall

# Claude Code opens its system prompt with this line, which in some versions differs from request to request: no prompt
# would begin as the one before.
_BILLING: Final = re.compile(r"\Ax-anthropic-billing-header:[^\n]*\n?")


_BLOCKS: Final = ("text", "thinking", "redacted_thinking", "tool_use", "tool_result")


class Block(Struct):
    """A content block of any type. Other fields, `cache_control` and `citations` among them, have no meaning here."""

    type: Annotated[str, Meta(extra_json_schema={"enum": [*_BLOCKS]})]
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | list[Block] | None = None
    is_error: bool | None = None


class MessageParam(Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


T = TypeVar("T")

# A block and where it stands in the body (`messages.0.content.1`).
_Placed = tuple[str, Block]


def to_messages(system: str | list[Block] | None, wire: Sequence[MessageParam]) -> tuple[Message, ...]:
    """Neighbours of one role become one turn, and a user's turn as many messages as it has tool results and texts between
    them. Raises InvalidRequestError."""
    if wire[-1].role == "assistant":
        raise InvalidRequestError(
            "The last message must be the user's: this server does not continue an assistant's message (prefill).",
            param=f"messages.{len(wire) - 1}.role",
        )
    messages: list[Message] = []
    instructions = _BILLING.sub("", _text(_placed(system or "", "system")))
    if instructions:
        messages.append(Message(role=Role.SYSTEM, content=instructions))
    for role, turn in groupby(enumerate(wire), key=lambda item: item[1].role):
        blocks = [placed for i, message in turn for placed in _placed(message.content, f"messages.{i}.content")]
        if role == "user":
            messages += _user(blocks)
        elif role == "assistant":
            messages.append(_assistant(blocks))
        else:
            messages.append(Message(role=Role.SYSTEM, content=_text(blocks)))
    return tuple(messages)


def _placed(content: str | list[Block], path: str) -> list[_Placed]:
    if isinstance(content, str):
        return [(path, Block(type="text", text=content))]
    return [(f"{path}.{i}", block) for i, block in enumerate(content)]


def _user(blocks: Sequence[_Placed]) -> Iterator[Message]:
    for is_result, group in groupby(blocks, key=lambda placed: placed[1].type == "tool_result"):
        if not is_result:
            yield Message(role=Role.USER, content=_text(group))
            continue
        for path, block in group:
            text = _text(_placed(block.content or "", f"{path}.content"))
            yield Message(
                role=Role.TOOL,
                content=f"Error: {text}" if block.is_error else text,
                tool_call_id=_required(block.tool_use_id, f"{path}.tool_use_id"),
            )


def _assistant(blocks: Sequence[_Placed]) -> Message:
    texts: list[_Placed] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    for path, block in blocks:
        if block.type == "tool_use":
            arguments = msgspec.json.encode(_required(block.input, f"{path}.input")).decode()
            call_id, name = _required(block.id, f"{path}.id"), _required(block.name, f"{path}.name")
            calls.append(ToolCall(id=call_id, name=name, arguments=arguments))
        elif block.type == "thinking":
            thoughts.append(_required(block.thinking, f"{path}.thinking") or recall(block.signature or ""))
        elif block.type != "redacted_thinking":  # which nobody but its author can read
            texts.append((path, block))
    reasoning = "\n".join(thought for thought in thoughts if thought) or None
    return Message(role=Role.ASSISTANT, content=_text(texts) or None, reasoning=reasoning, tool_calls=tuple(calls))


def _text(blocks: Iterator[_Placed] | Sequence[_Placed]) -> str:
    """Line breaks between the texts, so that they don't run into each other."""
    texts = []
    for path, block in blocks:
        if block.type in ("image", "document"):
            raise InvalidRequestError(
                f"This server is text-only: {block.type} blocks are not supported.", param=f"{path}.type"
            )
        if block.type != "text":
            raise InvalidRequestError(f"Blocks of type {block.type!r} are not supported here.", param=f"{path}.type")
        texts.append(_required(block.text, f"{path}.text"))
    return "\n".join(texts)


def _required(value: T | None, path: str) -> T:
    if value is None:
        raise InvalidRequestError(f"Missing required field: `{path}`.", param=path)
    return value
