"""POST /v1/chat/completions: the answer, whole (OpenAI's CreateChatCompletionResponse) and streamed
(CreateChatCompletionStreamResponse). Both come from the same events and say the same.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from mlx_server_nano import __version__
from mlx_server_nano.api.envelope import openai_error
from mlx_server_nano.api.logprobs import to_openai
from mlx_server_nano.api.reader import Reader
from mlx_server_nano.api.sse import COMMENT
from mlx_server_nano.api.usage import to_openai_usage
from mlx_server_nano.chat.answer import Piece
from mlx_server_nano.chat.deltas import CallArguments, CallStart, ContentDelta, Delta, ReasoningDelta
from mlx_server_nano.chat.request import ChatRequest
from mlx_server_nano.errors import ServerError
from mlx_server_nano.protocol import Event
from mlx_server_nano.types import FinishReason, TokenLogprob

_encode: Final = msgspec.json.encode


def _head(kind: str, model: str) -> dict[str, object]:
    return {
        "id": f"chatcmpl-{secrets.token_hex(16)}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": f"fp_{__version__}",
    }


def _logprobs(logprobs: Sequence[TokenLogprob]) -> dict[str, object]:
    return {"content": [to_openai(logprob) for logprob in logprobs], "refusal": None}


class _Choice:
    """What one choice has said so far."""

    def __init__(self) -> None:
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self.calls: list[_Call] = []
        self.logprobs: list[TokenLogprob] = []
        self.finish: FinishReason | None = None

    def take(self, piece: Piece) -> None:
        self.logprobs += piece.logprobs
        self.finish = piece.finish
        for delta in piece.deltas:
            if isinstance(delta, ContentDelta):
                self.content.append(delta.text)
            elif isinstance(delta, ReasoningDelta):
                self.reasoning.append(delta.text)
            elif isinstance(delta, CallStart):
                self.calls.append(_Call(delta.id, delta.name))
            elif isinstance(delta, CallArguments):
                self.calls[delta.index].arguments.append(delta.fragment)

    def message(self) -> dict[str, object]:
        """Content is null only beside calls."""
        content = "".join(self.content)
        message: dict[str, object] = {"role": "assistant", "content": content or (None if self.calls else "")}
        message["refusal"] = None
        if self.reasoning:
            message["reasoning_content"] = "".join(self.reasoning)
        if self.calls:
            message["tool_calls"] = [call.to_wire() for call in self.calls]
        return message


class _Call:
    def __init__(self, call_id: str, name: str) -> None:
        self.id = call_id
        self.name = name
        self.arguments: list[str] = []

    def to_wire(self) -> dict[str, object]:
        function = {"name": self.name, "arguments": "".join(self.arguments)}
        return {"id": self.id, "type": "function", "function": function}


class ChatAnswer(Reader):
    """Collects a whole answer."""

    def __init__(self, model: str, chat: ChatRequest) -> None:
        super().__init__(chat)
        self._head = _head("chat.completion", model)
        self._choices = [_Choice() for _ in range(chat.n)]
        self._with_logprobs = chat.logprobs is not None

    def feed(self, events: Sequence[Event]) -> None:
        for piece in self.pieces(events):
            self._choices[piece.choice].take(piece)

    def body(self) -> bytes:
        choices = [
            {
                "index": index,
                "message": choice.message(),
                "logprobs": _logprobs(choice.logprobs) if self._with_logprobs else None,
                "finish_reason": choice.finish,
            }
            for index, choice in enumerate(self._choices)
        ]
        return _encode({**self._head, "choices": choices, "usage": to_openai_usage(self.usage)})


class ChatStream(Reader):
    """Writes an answer's chunks: for each choice its role, its text and calls, its finish; then the usage, if asked for.

    A chunk is put together from encoded pieces: what is the same in all of them is encoded once, because at thousands of
    tokens a second nothing else in the gateway costs as much as this.
    """

    keep_alive = COMMENT

    def __init__(self, model: str, chat: ChatRequest, *, include_usage: bool) -> None:
        super().__init__(chat)
        self._start = b"data: " + _encode(_head("chat.completion.chunk", model)).removesuffix(b"}") + b',"choices":['
        self._starts = [b'%b{"index":%d,"delta":' % (self._start, index) for index in range(chat.n)]
        self._end = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._silent = set(range(chat.n))
        self._with_logprobs = chat.logprobs is not None
        self._include_usage = include_usage

    def feed(self, events: Sequence[Event]) -> bytes:
        chunks: list[bytes] = []
        for piece in self.pieces(events):
            self._write(piece, chunks)
        return b"".join(chunks)

    def end(self) -> bytes:
        if not self._include_usage:
            return b"data: [DONE]\n\n"
        return b'%b],"usage":%b}\n\ndata: [DONE]\n\n' % (self._start, _encode(to_openai_usage(self.usage)))

    def fail(self, error: ServerError) -> bytes:
        """OpenAI's clients raise on an `error` key; no [DONE] follows."""
        return b"data: %b\n\n" % openai_error(error)

    def _write(self, piece: Piece, chunks: list[bytes]) -> None:
        choice = piece.choice
        if choice in self._silent:
            self._silent.remove(choice)
            chunks.append(self._chunk(choice, b'{"role":"assistant","content":"","refusal":null}'))
        logprobs = _encode(_logprobs(piece.logprobs)) if self._with_logprobs and piece.logprobs else b"null"
        for delta in piece.deltas:
            if (encoded := _delta(delta)) is not None:
                chunks.append(self._chunk(choice, encoded, logprobs))
                logprobs = b"null"
        if logprobs != b"null":
            # Tokens whose text is held back, or is markup.
            chunks.append(self._chunk(choice, b'{"content":""}', logprobs))
        if piece.finish is not None:
            chunks.append(self._chunk(choice, b"{}", finish=_encode(piece.finish)))

    def _chunk(self, choice: int, delta: bytes, logprobs: bytes = b"null", finish: bytes = b"null") -> bytes:
        return b'%b%b,"logprobs":%b,"finish_reason":%b}%b' % (
            self._starts[choice],
            delta,
            logprobs,
            finish,
            self._end,
        )


def _delta(delta: Delta) -> bytes | None:
    if isinstance(delta, ContentDelta):
        return b'{"content":%b}' % _encode(delta.text)
    if isinstance(delta, ReasoningDelta):
        return b'{"reasoning_content":%b}' % _encode(delta.text)
    if isinstance(delta, CallArguments):
        return b'{"tool_calls":[{"index":%d,"function":{"arguments":%b}}]}' % (delta.index, _encode(delta.fragment))
    if isinstance(delta, CallStart):
        return b'{"tool_calls":[{"index":%d,"id":%b,"type":"function","function":{"name":%b,"arguments":""}}]}' % (
            delta.index,
            _encode(delta.id),
            _encode(delta.name),
        )
    return None
