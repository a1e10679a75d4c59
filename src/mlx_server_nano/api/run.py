"""A generating request's way through the server, the same for every dialect:

    body -> decode -> lease (download, load) -> queue -> events -> encoder -> client

It is cut short in one place, the `Interrupt`, when the client leaves or the server stops; lease and generation are given
back however it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mlx_server_nano.api.body import read_json_body
from mlx_server_nano.api.envelope import as_server_error
from mlx_server_nano.api.gate import ClientGoneError, Gate, Interrupt, ending_with_client
from mlx_server_nano.api.record import Record
from mlx_server_nano.api.sse import EventStream
from mlx_server_nano.config import Settings
from mlx_server_nano.errors import ServerError
from mlx_server_nano.protocol import Event
from mlx_server_nano.types import Work

if TYPE_CHECKING:
    from mlx_server_nano.models.lease import Lease
    from mlx_server_nano.models.manager import Manager


class StreamEncoder(Protocol):
    """Events to the bytes of a stream, in whole server-sent events."""

    @property
    def keep_alive(self) -> bytes:
        """What keeps a silent stream alive: a comment or an event that says nothing; asked anew each time."""

    def begin(self, lease: Lease) -> Work | tuple[Work, ...]:
        """The request, or requests, as the leased model takes it; called on another thread. Raises InvalidRequestError for
        what the model can't do."""

    def feed(self, events: Sequence[Event]) -> bytes:
        """What the client sees of these events; may be empty."""

    def end(self) -> bytes:
        """What follows the last event."""

    def fail(self, error: ServerError) -> bytes:
        """The end of a stream that has begun and cannot go on."""


class AnswerEncoder(Protocol):
    """Events to one JSON body."""

    def begin(self, lease: Lease) -> Work | tuple[Work, ...]:
        """As of a StreamEncoder."""

    def feed(self, events: Sequence[Event]) -> None: ...

    def body(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class StreamJob:
    """A decoded request to be streamed. `model` is the name as the client gave it."""

    model: str
    encoder: StreamEncoder


@dataclass(frozen=True, slots=True)
class AnswerJob:
    """A decoded request to be answered in one piece."""

    model: str
    encoder: AnswerEncoder


class GenerationEndpoint:
    """ASGI endpoint. `prepare` is the dialect: it decodes a body, and raises InvalidRequestError."""

    def __init__(
        self, settings: Settings, manager: Manager, gate: Gate, prepare: Callable[[bytes], StreamJob | AnswerJob]
    ) -> None:
        self._settings = settings
        self._manager = manager
        self._gate = gate
        self._prepare = prepare

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._gate.admit() as interrupt:
            with interrupt:
                body = await read_json_body(scope, receive, self._settings.max_body)
            job = self._prepare(body)
            if isinstance(job, AnswerJob):
                with interrupt:
                    async with ending_with_client(receive, interrupt):
                        await self._generate(job, _collector(job.encoder), Record.of(scope))
                await Response(job.encoder.body(), media_type="application/json")(scope, receive, send)
                return
            encoder = job.encoder
            stream = EventStream(send, self._settings.keepalive_interval, lambda: encoder.keep_alive)
            work = self._generate(job, _forwarder(encoder, stream), Record.of(scope))
            await run_stream(scope, receive, interrupt, stream, work, end=encoder.end, fail=encoder.fail)

    async def _generate(
        self, job: StreamJob | AnswerJob, take: Callable[[Sequence[Event]], Awaitable[None]], record: Record
    ) -> None:
        async with self._manager.lease(job.model) as lease:
            # A grammar for hundreds of tools takes a good part of a second to write.
            requests = await asyncio.to_thread(job.encoder.begin, lease)
            generation = lease.generate(*(requests if isinstance(requests, tuple) else (requests,)))
            record.send(lease.model_id)
            try:
                while not generation.finished:
                    events = await generation.next()
                    record.feed(events)
                    await take(events)
            finally:
                generation.cancel()


async def run_stream(
    scope: Scope,
    receive: Receive,
    interrupt: Interrupt,
    stream: EventStream,
    work: Coroutine[Any, Any, None],
    *,
    end: Callable[[], bytes],
    fail: Callable[[ServerError], bytes],
) -> None:
    """Await the work, which writes to the stream, and end the response with what `end` gives, or `fail` if the work fails after
    the stream has begun; before that its error is raised. Raises ClientGoneError."""
    try:
        with contextlib.closing(work), interrupt:
            async with ending_with_client(receive, interrupt), stream:
                await work
    except ClientGoneError:
        raise
    except Exception as error:
        if not stream.started:
            raise
        failure = as_server_error(error)
        Record.of(scope).fail(failure)
        last = fail(failure)
    else:
        last = end()
    await stream.close(last)


def _collector(encoder: AnswerEncoder) -> Callable[[Sequence[Event]], Awaitable[None]]:
    async def take(events: Sequence[Event]) -> None:
        encoder.feed(events)

    return take


def _forwarder(encoder: StreamEncoder, stream: EventStream) -> Callable[[Sequence[Event]], Awaitable[None]]:
    async def take(events: Sequence[Event]) -> None:
        if data := encoder.feed(events):
            await stream.write(data)

    return take
