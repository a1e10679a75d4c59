"""POST /v1/chat/completions: the answer, whole (OpenAI's CreateChatCompletionResponse) and streamed
(CreateChatCompletionStreamResponse). Both come from the same events and say the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from mlx_server_nano.api.answer import head
from mlx_server_nano.api.chat_messages import CalledCustom, CalledFunction
from mlx_server_nano.api.envelope import openai_error
from mlx_server_nano.api.logprobs import ChatTokenLogprob, to_openai
from mlx_server_nano.api.reader import Reader
from mlx_server_nano.api.sse import COMMENT
from mlx_server_nano.api.usage import CompletionUsage, to_openai_usage
from mlx_server_nano.chat.answer import Piece
from mlx_server_nano.chat.deltas import CallArguments, CallStart, ContentDelta, Delta, ReasoningDelta
from mlx_server_nano.chat.request import ChatRequest
from mlx_server_nano.errors import ServerError
from mlx_server_nano.protocol import Event
from mlx_server_nano.types import FinishReason, TokenLogprob

_encode: Final = msgspec.json.encode


# A call's kind and its text's name, on the wire.
_FUNCTION: Final = (b"function", b"arguments")
_CUSTOM: Final = (b"custom", b"input")


class FunctionToolCall(Struct, tag_field="type", tag="function"):
    id: str
    function: CalledFunction


class CustomToolCall(Struct, tag_field="type", tag="custom"):
    id: str
    custom: CalledCustom


class AnswerMessage(Struct, tag_field="role", tag="assistant"):
    """`content` is null only beside calls."""

    content: str | None
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[FunctionToolCall | CustomToolCall] | UnsetType = UNSET


class ChoiceLogprobs(Struct):
    content: list[ChatTokenLogprob]
    refusal: None = None


class ChatChoice(Struct):
    index: int
    message: AnswerMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason | None


class ChatCompletion(Struct, tag_field="object", tag="chat.completion"):
    """created: in Unix seconds."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: CompletionUsage


def _logprobs(logprobs: Sequence[TokenLogprob]) -> ChoiceLogprobs:
    return ChoiceLogprobs([to_openai(logprob) for logprob in logprobs])


class _Choice:
    """What one choice has said so far."""

    def __init__(self, custom: frozenset[str]) -> None:
        self._custom = custom
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

    def message(self) -> AnswerMessage:
        content = "".join(self.content)
        return AnswerMessage(
            content=content or (None if self.calls else ""),
            reasoning_content="".join(self.reasoning) if self.reasoning else UNSET,
            tool_calls=[call.to_wire(call.name in self._custom) for call in self.calls] if self.calls else UNSET,
        )


class _Call:
    def __init__(self, call_id: str, name: str) -> None:
        self.id = call_id
        self.name = name
        self.arguments: list[str] = []

    def to_wire(self, custom: bool) -> FunctionToolCall | CustomToolCall:
        given = "".join(self.arguments)
        if custom:
            return CustomToolCall(self.id, CalledCustom(self.name, given))
        return FunctionToolCall(self.id, CalledFunction(self.name, given))


class ChatAnswer(Reader):
    """Collects a whole answer."""

    def __init__(self, model: str, chat: ChatRequest) -> None:
        super().__init__(chat)
        self._model = model
        self._choices = [_Choice(chat.custom) for _ in range(chat.n)]
        self._with_logprobs = chat.logprobs is not None

    def feed(self, events: Sequence[Event]) -> None:
        for piece in self.pieces(events):
            self._choices[piece.choice].take(piece)

    def body(self) -> bytes:
        choices = [
            ChatChoice(
                index=index,
                message=choice.message(),
                logprobs=_logprobs(choice.logprobs) if self._with_logprobs else None,
                finish_reason=choice.finish,
            )
            for index, choice in enumerate(self._choices)
        ]
        return _encode(
            ChatCompletion(**head("chatcmpl", self._model), choices=choices, usage=to_openai_usage(self.usage))
        )


class ChatStream(Reader):
    """Writes an answer's chunks: for each choice its role, its text and calls, its finish; then the usage, if asked for.

    A chunk is put together from encoded pieces: what is the same in all of them is encoded once, because at thousands of
    tokens a second nothing else in the gateway costs as much as this.
    """

    keep_alive = COMMENT

    def __init__(self, model: str, chat: ChatRequest, *, include_usage: bool) -> None:
        super().__init__(chat)
        start = {"object": "chat.completion.chunk", **head("chatcmpl", model)}
        self._start = b"data: " + _encode(start).removesuffix(b"}") + b',"choices":['
        self._starts = [b'%b{"index":%d,"delta":' % (self._start, index) for index in range(chat.n)]
        self._end = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._silent = set(range(chat.n))
        self._kinds = [_FUNCTION] * chat.n  # of each choice's open call
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
            if (encoded := self._delta(choice, delta)) is not None:
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

    def _delta(self, choice: int, delta: Delta) -> bytes | None:
        if isinstance(delta, ContentDelta):
            return b'{"content":%b}' % _encode(delta.text)
        if isinstance(delta, ReasoningDelta):
            return b'{"reasoning_content":%b}' % _encode(delta.text)
        if isinstance(delta, CallArguments):
            kind, given = self._kinds[choice]
            return b'{"tool_calls":[{"index":%d,"%b":{"%b":%b}}]}' % (delta.index, kind, given, _encode(delta.fragment))
        if isinstance(delta, CallStart):
            kind, given = self._kinds[choice] = _CUSTOM if delta.name in self.chat.custom else _FUNCTION
            return b'{"tool_calls":[{"index":%d,"id":%b,"type":"%b","%b":{"name":%b,"%b":""}}]}' % (
                delta.index,
                _encode(delta.id),
                kind,
                kind,
                _encode(delta.name),
                given,
            )
        return None
