"""POST /v1/responses: the answer, whole (OpenAI's Response) and streamed. Both come from the same events and say the same."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from mlx_server_nano.api.reader import PromptLength, Reader
from mlx_server_nano.api.responses_items import Item
from mlx_server_nano.api.responses_object import (
    IncompleteDetails,
    InputDetails,
    OutputDetails,
    ResponseFailure,
    ResponseObject,
    ResponseStatus,
    ResponseUsage,
)
from mlx_server_nano.api.responses_output import Output
from mlx_server_nano.api.responses_request import ResponseOptions
from mlx_server_nano.api.responses_store import ResponseStore, Stored
from mlx_server_nano.chat.answer import Usage
from mlx_server_nano.chat.request import ChatRequest
from mlx_server_nano.errors import ContextLengthError, ServerError
from mlx_server_nano.protocol import Event
from mlx_server_nano.types import FinishReason, GenerationRequest

if TYPE_CHECKING:
    from mlx_server_nano.models.lease import Lease

_encode: Final = msgspec.json.encode
# What a response repeats of the sampling, the operator's defaults included.
_SHOWN: Final = ("temperature", "top_p", "presence_penalty", "frequency_penalty")


class _Encoder(Reader):
    """What both encoders begin and end with."""

    def __init__(self, chat: ChatRequest, options: ResponseOptions, store: ResponseStore) -> None:
        super().__init__(chat)
        self._options = options
        self._store = store
        self._id = f"resp_{secrets.token_hex(24)}"
        self._created = int(time.time())
        self._output = Output(chat.custom, summarize=options.summarize, sealed=options.seal)
        self._echo = options.echo

    def begin(self, lease: Lease) -> GenerationRequest:
        """Raises InvalidRequestError for what the model can't do."""
        request = super().begin(lease)
        filled = lease.defaults.fill(self.chat.sampling)
        shown = {name: value for name in _SHOWN if (value := getattr(filled, name)) is not None}
        self._echo = replace(self._echo, **shown)
        return request

    def _response(
        self, status: ResponseStatus = "in_progress", *, error: ResponseFailure | None = None, ended: bool = False
    ) -> ResponseObject:
        return replace(
            self._echo,
            id=self._id,
            created_at=self._created,
            completed_at=int(time.time()) if status == "completed" else None,
            status=status,
            error=error,
            incomplete_details=IncompleteDetails() if status == "incomplete" else None,
            output=self._output.to_wire(),
            usage=_usage(self.usage) if ended else None,
        )

    def _finished(self) -> ResponseObject:
        response = self._response(
            "incomplete" if self._output.finish is FinishReason.LENGTH else "completed", ended=True
        )
        self._keep(response)
        return response

    def _failed(self, error: ServerError) -> ResponseObject:
        self._output.interrupt()
        response = self._response("failed", error=ResponseFailure(_code(error), error.message), ended=True)
        self._keep(response)
        return response

    def _keep(self, response: ResponseObject) -> None:
        if self._options.store:
            self._store.add(
                Stored(
                    id=self._id,
                    body=_encode(response),
                    history=self._options.history,
                    input=self._options.input,
                    output=msgspec.json.decode(_encode(response.output), type=tuple[Item, ...]),
                )
            )


def _usage(usage: Usage) -> ResponseUsage:
    return ResponseUsage(
        input_tokens=usage.prompt,
        input_tokens_details=InputDetails(usage.cached),
        output_tokens=usage.completion,
        output_tokens_details=OutputDetails(usage.reasoning),
        total_tokens=usage.prompt + usage.completion,
    )


def _code(error: ServerError) -> str:
    """OpenAI's codes (ResponseErrorCode), and one that it sends all the same, by which agents know to shorten their prompt."""
    if isinstance(error, ContextLengthError):
        return "context_length_exceeded"
    if error.status == 429:
        return "rate_limit_exceeded"
    return "invalid_prompt" if error.status < 500 else "server_error"


class ResponseAnswer(_Encoder):
    """Collects a whole answer."""

    def feed(self, events: Sequence[Event]) -> None:
        for piece in self.pieces(events):
            for _ in self._output.take(piece):
                pass

    def body(self) -> bytes:
        return _encode(self._finished())


class ResponseStream(_Encoder):
    """Writes an answer's events, numbered from 0."""

    def __init__(self, chat: ChatRequest, options: ResponseOptions, store: ResponseStore) -> None:
        super().__init__(chat, options, store)
        self._sequence = 0

    def feed(self, events: Sequence[Event]) -> bytes:
        out = [self._opening()]
        for piece in self.pieces(events):
            out += [self._event(kind, fields) for kind, fields in self._output.take(piece)]
        return b"".join(out)

    def end(self) -> bytes:
        response = self._finished()
        return self._event(f"response.{response.status}", {"response": response})

    def fail(self, error: ServerError) -> bytes:
        return self._opening() + self._event("response.failed", {"response": self._failed(error)})

    @property
    def keep_alive(self) -> bytes:
        """A typed event, since one client ignores comments."""
        return self._opening() or self._event("response.in_progress", {"response": self._response()})

    def _opening(self) -> bytes:
        if self._sequence:
            return b""
        return b"".join(
            self._event(f"response.{step}", {"response": self._response()}) for step in ("created", "in_progress")
        )

    def _event(self, kind: str, fields: dict[str, Any]) -> bytes:
        data = _encode({"type": kind, "sequence_number": self._sequence, **fields})
        self._sequence += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


class ResponseInputTokens(Struct, tag_field="object", tag="response.input_tokens"):
    input_tokens: int


class InputTokens(PromptLength):
    def body(self) -> bytes:
        return _encode(ResponseInputTokens(self.tokens))
