"""The items of the Responses API (OpenAI's InputItem and OutputItem, document 2.3.0) and the chat that they tell."""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Collection, Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from mlx_server_nano.api.chat_messages import Part, join_parts
from mlx_server_nano.chat.custom import custom_arguments
from mlx_server_nano.errors import InvalidRequestError, UnsupportedParameterError
from mlx_server_nano.types import Message, Role, ToolCall

_SEALED: Final = "mlx-server-nano:"
_PREFIXES: Final = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
}
_ROLES: Final = (Role.USER, Role.ASSISTANT, Role.SYSTEM, Role.DEVELOPER)
_INPUT: Final = ("input_text", "text")
_OUTPUT: Final = ("output_text", "refusal", *_INPUT)
_REASONING: Final = ("reasoning_text", "summary_text", "text")


class ItemPart(Part, omit_defaults=True, kw_only=True):
    """A text: that of a user's, system or developer message is `input_text`, the assistant's `output_text` or `refusal`."""

    type: Annotated[str, Meta(extra_json_schema={"enum": [*dict.fromkeys(_OUTPUT + _REASONING)]})]
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class Item(Struct, omit_defaults=True, kw_only=True):
    """An item of any type; without a type it is a message, or with nothing but an id a reference.

    A message needs `role` and `content`, a call `call_id`, `name` and `arguments` (or `input`), its output `call_id` and
    `output`.
    """

    type: Annotated[str, Meta(extra_json_schema={"enum": [*_PREFIXES, "item_reference"]})] | None = None
    id: str | None = None
    status: str | None = None
    role: Annotated[str, Meta(extra_json_schema={"enum": [*_ROLES]})] | None = None
    content: str | list[ItemPart] | None = None
    summary: list[ItemPart] | None = None
    encrypted_content: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    input: str | None = None
    output: str | list[ItemPart] | None = None


def new_id(type: str) -> str:
    return f"{_PREFIXES[type]}_{secrets.token_hex(16)}"


def is_reference(item: Item) -> bool:
    return item.type == "item_reference" or (item.type is None and item.role is None and item.id is not None)


def complete(item: Item, path: str) -> Item:
    """The item with what clients may leave out: type, id, status, a list of parts. Raises UnsupportedParameterError for
    other types than those of text and calls."""
    kind = "message" if item.type is None else item.type
    if kind not in _PREFIXES:
        raise UnsupportedParameterError(f"Input items of type {kind!r} are not supported.", param=f"{path}.type")
    changes: dict[str, Any] = {"type": kind, "id": item.id or new_id(kind), "status": item.status or "completed"}
    if kind == "message":
        said = item.role == Role.ASSISTANT
        content = item.content
        if isinstance(content, str):
            content = [ItemPart(type="output_text" if said else "input_text", text=content)]
        changes["content"] = [_with_lists(part) for part in content] if content and said else content
    elif kind == "reasoning":
        changes["summary"] = item.summary or []
    return msgspec.structs.replace(item, **changes)


def _with_lists(part: ItemPart) -> ItemPart:
    if part.type != "output_text":
        return part
    return msgspec.structs.replace(part, annotations=part.annotations or [], logprobs=part.logprobs or [])


def seal(reasoning: str) -> str:
    """Reasoning as `encrypted_content`, for clients that keep nothing else of it: it is theirs, so it is only wrapped."""
    return _SEALED + base64.b64encode(reasoning.encode()).decode()


def unseal(text: str) -> str | None:
    """None for what another server sealed."""
    try:
        return base64.b64decode(text.removeprefix(_SEALED)).decode() if text.startswith(_SEALED) else None
    except (binascii.Error, UnicodeDecodeError):
        return None


class Conversation:
    """The messages that complete items tell. What the assistant says in a row (reasoning, text, calls) is one message."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def add(self, item: Item, path: str) -> None:
        """`path` is where the item stands in the body (`input.0`). Raises InvalidRequestError."""
        if item.type == "message":
            self._message(item, path)
        elif item.type == "reasoning":
            if reasoning := _reasoning(item, path):
                self._say(Message(role=Role.ASSISTANT, reasoning=reasoning))
        elif item.type == "function_call":
            self._call(item, _need(item, "arguments", path), path)
        elif item.type == "custom_tool_call":
            self._call(item, custom_arguments(_need(item, "input", path)), path)
        else:
            call_id = _need(item, "call_id", path)
            output = _text(item.output, _INPUT, f"{path}.output")
            self.messages.append(Message(role=Role.TOOL, content=output, tool_call_id=call_id))

    def _message(self, item: Item, path: str) -> None:
        if item.role not in _ROLES:
            raise InvalidRequestError(f"The role must be one of {', '.join(_ROLES)}.", param=f"{path}.role")
        role = Role(item.role)
        content = _text(item.content, _OUTPUT if role is Role.ASSISTANT else _INPUT, f"{path}.content")
        message = Message(role=role, content=content)
        if role is Role.ASSISTANT:
            self._say(message)
        else:
            self.messages.append(message)

    def _call(self, item: Item, arguments: str, path: str) -> None:
        call = ToolCall(id=_need(item, "call_id", path), name=_need(item, "name", path), arguments=arguments)
        self._say(Message(role=Role.ASSISTANT, tool_calls=(call,)))

    def _say(self, new: Message) -> None:
        last = self.messages[-1] if self.messages else None
        if last is None or last.role is not Role.ASSISTANT or (new.content and last.content and not last.tool_calls):
            self.messages.append(new)
            return
        self.messages[-1] = Message(
            role=Role.ASSISTANT,
            content=_joined(last.content, new.content),
            reasoning=_joined(last.reasoning, new.reasoning),
            tool_calls=last.tool_calls + new.tool_calls,
        )


def _joined(first: str | None, second: str | None) -> str | None:
    return f"{first}\n{second}" if first and second else first or second


def _reasoning(item: Item, path: str) -> str | None:
    if item.content:
        return _text(item.content, _REASONING, f"{path}.content")
    if item.encrypted_content is not None and (text := unseal(item.encrypted_content)) is not None:
        return text
    return join_parts(item.summary or (), _REASONING, f"{path}.summary") or None


def _text(content: str | Sequence[ItemPart] | None, types: Collection[str], path: str) -> str:
    if content is None:
        raise InvalidRequestError(f"Missing required field: `{path}`.", param=path)
    return content if isinstance(content, str) else join_parts(content, types, path)


def _need(item: Item, field: str, path: str) -> str:
    value: str | None = getattr(item, field)
    if value is None:
        raise InvalidRequestError(f"Missing required field: `{path}.{field}`.", param=f"{path}.{field}")
    return value
