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
from mlx_server_nano.api.usage import Usage
from mlx_server_nano.errors import ServerError
from mlx_server_nano.protocol import Delta, Event
from mlx_server_nano.types import FinishReason, GenerationRequest, TokenLogprob

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
        self.text: list[str] = []
        self.logprobs: list[TokenLogprob] = []
        self.finish: FinishReason | None = None


class ChatAnswer:
    """Collects a whole answer."""

    def __init__(self, model: str, request: GenerationRequest) -> None:
        self._head = _head("chat.completion", model)
        self._choices = [_Choice() for _ in range(request.n)]
        self._with_logprobs = request.logprobs is not None
        self._usage = Usage()

    def feed(self, events: Sequence[Event]) -> None:
        for event in events:
            self._usage.feed(event)
            if isinstance(event, Delta):
                choice = self._choices[event.choice]
                choice.text.append(event.text)
                choice.logprobs += event.logprobs
                choice.finish = event.finish

    def body(self) -> bytes:
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": "".join(choice.text), "refusal": None},
                "logprobs": _logprobs(choice.logprobs) if self._with_logprobs else None,
                "finish_reason": choice.finish,
            }
            for index, choice in enumerate(self._choices)
        ]
        return _encode({**self._head, "choices": choices, "usage": self._usage.to_openai()})


class ChatStream:
    """Writes an answer's chunks: for each choice its role, its text, its finish; then the usage, if asked for.

    A chunk is put together from encoded pieces: what is the same in all of them is encoded once, because at thousands of
    tokens a second nothing else in the gateway costs as much as this.
    """

    def __init__(self, model: str, request: GenerationRequest, *, include_usage: bool) -> None:
        self._start = b"data: " + _encode(_head("chat.completion.chunk", model)).removesuffix(b"}") + b',"choices":['
        self._starts = [b'%b{"index":%d,"delta":' % (self._start, index) for index in range(request.n)]
        self._end = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._silent = set(range(request.n))
        self._with_logprobs = request.logprobs is not None
        self._include_usage = include_usage
        self._usage = Usage()

    def feed(self, events: Sequence[Event]) -> bytes:
        chunks: list[bytes] = []
        for event in events:
            self._usage.feed(event)
            if isinstance(event, Delta):
                self._write(event, chunks)
        return b"".join(chunks)

    def end(self) -> bytes:
        if not self._include_usage:
            return b"data: [DONE]\n\n"
        return b'%b],"usage":%b}\n\ndata: [DONE]\n\n' % (self._start, _encode(self._usage.to_openai()))

    def fail(self, error: ServerError) -> bytes:
        """OpenAI's clients raise on an `error` key; no [DONE] follows."""
        return b"data: %b\n\n" % openai_error(error)

    def _write(self, delta: Delta, chunks: list[bytes]) -> None:
        choice = delta.choice
        if choice in self._silent:
            self._silent.remove(choice)
            chunks.append(self._chunk(choice, b'{"role":"assistant","content":"","refusal":null}'))
        if delta.text or delta.logprobs:
            logprobs = _encode(_logprobs(delta.logprobs)) if self._with_logprobs else b"null"
            chunks.append(self._chunk(choice, b'{"content":%b}' % _encode(delta.text), logprobs))
        if delta.finish is not None:
            chunks.append(self._chunk(choice, b"{}", finish=_encode(delta.finish)))

    def _chunk(self, choice: int, delta: bytes, logprobs: bytes = b"null", finish: bytes = b"null") -> bytes:
        return b'%b%b,"logprobs":%b,"finish_reason":%b}%b' % (
            self._starts[choice],
            delta,
            logprobs,
            finish,
            self._end,
        )
