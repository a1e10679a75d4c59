"""POST /v1/messages: the answer, whole (Anthropic's Message) and streamed (RawMessageStreamEvent), and the token count.

Whole and streamed answers come from the same events and are cut into blocks in one place.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from mlx_server_nano.api.envelope import anthropic_error
from mlx_server_nano.api.messages_thinking import sign
from mlx_server_nano.api.reader import PromptLength, Reader
from mlx_server_nano.chat.answer import Piece, Usage
from mlx_server_nano.chat.deltas import CallArguments, CallStart, ContentDelta, ReasoningDelta
from mlx_server_nano.chat.request import ChatRequest
from mlx_server_nano.errors import ServerError
from mlx_server_nano.protocol import Event
from mlx_server_nano.types import FinishReason

_encode: Final = msgspec.json.encode


class BlockKind(StrEnum):
    TEXT = "text"
    THINKING = "thinking"
    TOOL_USE = "tool_use"


class StopReason(StrEnum):
    END_TURN = "end_turn"
    STOP_SEQUENCE = "stop_sequence"
    TOOL_USE = "tool_use"
    MAX_TOKENS = "max_tokens"
    CONTEXT_FULL = "model_context_window_exceeded"


class TextBlock(Struct, tag_field="type", tag="text"):
    text: str


class ThinkingBlock(Struct, tag_field="type", tag="thinking"):
    thinking: str
    signature: str


class ToolUseBlock(Struct, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: Annotated[Raw, Meta(extra_json_schema={"type": "object"})]


class OutputTokensDetails(Struct):
    thinking_tokens: int


class MessageUsage(Struct):
    """`input_tokens` are those that came from no cache. Tokens are not counted as written to one: that is a price, not work."""

    input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    cache_creation_input_tokens: int = 0


class Message(Struct, tag_field="type", tag="message"):
    """stop_sequence: the one that ended the message, if one did."""

    id: str
    model: str
    content: list[TextBlock | ThinkingBlock | ToolUseBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage
    role: Literal["assistant"] = "assistant"


class MessageTokensCount(Struct):
    input_tokens: int


class _Block:
    """A content block of the answer, and what was said in it so far. A call has an id and a name."""

    def __init__(self, kind: BlockKind, id: str = "", name: str = "") -> None:
        self.kind = kind
        self._id = id
        self._name = name
        self.parts: list[str] = []

    def to_wire(self, *, with_thinking: bool) -> TextBlock | ThinkingBlock | ToolUseBlock:
        said = "".join(self.parts)
        if self.kind is BlockKind.TEXT:
            return TextBlock(said)
        if self.kind is BlockKind.TOOL_USE:
            return ToolUseBlock(self._id, self._name, _input(said))
        return ThinkingBlock(said if with_thinking else "", sign(said) if said else "")


def _input(arguments: str) -> Raw:
    """The arguments as they were generated. What is no JSON object, cut short by the token limit for one, is wrapped as
    Anthropic's documentation wraps it."""
    text = arguments.encode() or b"{}"
    try:
        msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError):
        return Raw(_encode({"INVALID_JSON": arguments}))
    return Raw(text)


def _call_id(call_id: str) -> str:
    """The ids that we make look like OpenAI's; those that models write stay as they are, for the model to know them again."""
    return f"toolu_{call_id.removeprefix('call_')}" if call_id.startswith("call_") else call_id


def _stop_reason(last: Piece, *, all_tokens: bool) -> StopReason:
    """all_tokens: the answer has as many as it may have."""
    if last.finish is FinishReason.TOOL_CALLS:
        return StopReason.TOOL_USE
    if last.finish is FinishReason.LENGTH:
        return StopReason.MAX_TOKENS if all_tokens else StopReason.CONTEXT_FULL
    return StopReason.END_TURN if last.stop is None else StopReason.STOP_SEQUENCE


class _Message(Reader):
    """Cuts an answer into blocks, of which the last may be open, and calls `_opened`, `_said` and `_closed` as it does."""

    def __init__(self, model: str, chat: ChatRequest, *, with_thinking: bool) -> None:
        super().__init__(chat)
        self._id = f"msg_{secrets.token_hex(12)}"
        self._model = model
        self._with_thinking = with_thinking
        self._blocks: list[_Block] = []
        self._open: _Block | None = None
        self._last = Piece(0, ())

    def _take(self, piece: Piece) -> None:
        for delta in piece.deltas:
            if isinstance(delta, ContentDelta):
                self._say(BlockKind.TEXT, delta.text)
            elif isinstance(delta, ReasoningDelta):
                self._say(BlockKind.THINKING, delta.text)
            elif isinstance(delta, CallArguments):
                self._say(BlockKind.TOOL_USE, delta.fragment)
            elif isinstance(delta, CallStart):
                self._begin(_Block(BlockKind.TOOL_USE, id=_call_id(delta.id), name=delta.name))
            else:
                self._close()
        if piece.finish is not None:
            self._close()
            self._last = piece

    def _say(self, kind: BlockKind, text: str) -> None:
        block = self._open
        if block is None or block.kind is not kind:
            block = self._begin(_Block(kind))
        block.parts.append(text)
        self._said(block, text)

    def _begin(self, block: _Block) -> _Block:
        self._close()
        self._open = block
        self._blocks.append(block)
        self._opened(block)
        return block

    def _close(self) -> None:
        if self._open is not None:
            self._closed(self._open)
            self._open = None

    def _opened(self, block: _Block) -> None: ...

    def _said(self, block: _Block, text: str) -> None: ...

    def _closed(self, block: _Block) -> None: ...

    def _stop(self) -> dict[str, Any]:
        """Why the answer ended; nulls until it has."""
        if self._last.finish is None:
            return {"stop_reason": None, "stop_sequence": None}
        reason = _stop_reason(self._last, all_tokens=self.usage.completion >= (self.chat.max_tokens or 0))
        stop = self._last.stop if reason is StopReason.STOP_SEQUENCE else None
        return {"stop_reason": reason, "stop_sequence": stop}

    def _message(self, content: list[TextBlock | ThinkingBlock | ToolUseBlock]) -> Message:
        return Message(id=self._id, model=self._model, content=content, usage=_usage(self.usage), **self._stop())


class MessageAnswer(_Message):
    """Collects a whole answer."""

    def feed(self, events: Sequence[Event]) -> None:
        for piece in self.pieces(events):
            self._take(piece)

    def body(self) -> bytes:
        return _encode(self._message([block.to_wire(with_thinking=self._with_thinking) for block in self._blocks]))


class MessageStream(_Message):
    """Writes an answer's events: message_start; for each block its start, deltas and stop; message_delta, message_stop.

    message_start waits for the first token: a failure up to then has its own HTTP status.
    """

    keep_alive = b'event: ping\ndata: {"type":"ping"}\n\n'

    def __init__(self, model: str, chat: ChatRequest, *, with_thinking: bool) -> None:
        super().__init__(model, chat, with_thinking=with_thinking)
        self._begun = False
        self._out: list[bytes] = []

    def feed(self, events: Sequence[Event]) -> bytes:
        for piece in self.pieces(events):
            if not self._begun:
                self._begun = True
                self._write("message_start", b'"message":%b' % _encode(self._message([])))
            self._take(piece)
        data = b"".join(self._out)
        self._out.clear()
        return data

    def end(self) -> bytes:
        self._write("message_delta", b'"delta":%b,"usage":%b' % (_encode(self._stop()), _encode(_usage(self.usage))))
        return b"".join(self._out) + b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

    def fail(self, error: ServerError) -> bytes:
        return b"event: error\ndata: %b\n\n" % anthropic_error(error)

    def _opened(self, block: _Block) -> None:
        empty = _encode(block.to_wire(with_thinking=True))
        self._write("content_block_start", b'"index":%d,"content_block":%b' % (self._index, empty))

    def _said(self, block: _Block, text: str) -> None:
        if block.kind is BlockKind.TEXT:
            self._delta("text_delta", "text", text)
        elif block.kind is BlockKind.TOOL_USE:
            self._delta("input_json_delta", "partial_json", text)
        elif self._with_thinking:
            self._delta("thinking_delta", "thinking", text)

    def _closed(self, block: _Block) -> None:
        if block.kind is BlockKind.THINKING:
            self._delta("signature_delta", "signature", sign("".join(block.parts)))
        self._write("content_block_stop", b'"index":%d' % self._index)

    @property
    def _index(self) -> int:
        return len(self._blocks) - 1

    def _delta(self, kind: str, field: str, value: str) -> None:
        delta = b'"index":%d,"delta":{"type":"%b","%b":%b}'
        self._write("content_block_delta", delta % (self._index, kind.encode(), field.encode(), _encode(value)))

    def _write(self, event: str, fields: bytes) -> None:
        name = event.encode()
        self._out.append(b'event: %b\ndata: {"type":"%b",%b}\n\n' % (name, name, fields))


class TokenCount(PromptLength):
    """The answer to count_tokens: what a message would report of its prompt, cached or not."""

    def body(self) -> bytes:
        return _encode(MessageTokensCount(self.tokens))


def _usage(usage: Usage) -> MessageUsage:
    return MessageUsage(
        input_tokens=usage.prompt - usage.cached,
        cache_read_input_tokens=usage.cached,
        output_tokens=usage.completion,
        output_tokens_details=OutputTokensDetails(usage.reasoning),
    )
