"""The load generator: many streaming chat clients in one process, as cheap as they can be.

It shares the machine's cores with the server, so it is a raw reader: httptools cuts the HTTP, msgspec decodes the
events, and nothing is kept but times and the text. Every request has a connection of its own: `mlx_lm.server` closes them anyway.
`python -m benchmarks.load` takes a `LoadJob` and gives a `LoadReport`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Final, cast

import httptools
import msgspec
import uvloop
from msgspec import Struct

from benchmarks import jobs, prompts
from benchmarks.figures import Answer, RefusedError, TroubleError
from benchmarks.jobs import LoadJob, LoadReport, Scenario

Message = dict[str, str]
"""As it is sent: `role` and `content`."""

OnText = Callable[[float], None]
"""Called with the time when text has come."""

_RETRY_PAUSE: Final = 0.1
_SETTLE_SECONDS: Final = 1.0
_STREAMING: Final = 8


def _ignore(now: float) -> None: ...


def user(text: str) -> Message:
    return {"role": "user", "content": text}


class _Delta(Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class _Choice(Struct):
    delta: _Delta | None = None


class _Details(Struct):
    cached_tokens: int | None = 0


class _Usage(Struct):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _Details | None = None


class _Chunk(Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw(b"")


class EventReader:
    """The body of one streamed answer, in pieces of any size."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(_Chunk)
        self._buffer = b""
        self.usage: _Usage | None = None
        self.content: list[str] = []
        self.ended = False

    def feed(self, data: bytes) -> bool:
        """Whether the piece completed an event with text. Raises TroubleError for an error event."""
        *events, self._buffer = (self._buffer + data).replace(b"\r\n", b"\n").split(b"\n\n")
        text = False
        for event in events:
            if not event.startswith(b"data:"):
                continue
            payload = event[5:].strip()
            if payload == b"[DONE]":
                self.ended = True
                continue
            chunk = self._decoder.decode(payload)
            if bytes(chunk.error):
                raise TroubleError("error in the stream")
            self.usage = chunk.usage or self.usage
            for choice in chunk.choices:
                if delta := choice.delta:
                    text |= bool(delta.content or delta.reasoning or delta.reasoning_content)
                    self.content.append(delta.content or "")
        return text


class _Exchange(asyncio.Protocol):
    """One request and its answer on one connection."""

    def __init__(self, request: bytes, on_text: OnText) -> None:
        self._request = request
        self._on_text = on_text
        self._parser = httptools.HttpResponseParser(self)
        self._events = EventReader()
        self._text = False
        self._transport: asyncio.Transport | None = None
        self.sent = 0.0
        self.arrivals: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._text = False
        try:
            self._parser.feed_data(data)
        except TroubleError as trouble:
            self._end(trouble)
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._end(cause if isinstance(cause, TroubleError) else TroubleError(f"not HTTP: {error}"))
        if self._text:
            now = time.monotonic()
            self.arrivals.append(now)
            self._on_text(now)
        if self._events.ended:
            self._end(None)

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status != 200:
            raise (RefusedError if status in (429, 503) else TroubleError)(f"status {status}")

    def on_body(self, body: bytes) -> None:
        self._text |= self._events.feed(body)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(TroubleError("stream cut") if self.arrivals else RefusedError("connection refused or reset"))

    def _end(self, trouble: Exception | None) -> None:
        if not self.done.done():
            if trouble is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(trouble)
        if self._transport is not None:
            self._transport.close()

    def answer(self) -> Answer:
        usage = self._events.usage
        if usage is None or not self.arrivals:
            raise TroubleError("no text" if usage else "no usage")
        details = usage.prompt_tokens_details
        return Answer(
            sent=self.sent,
            arrivals=tuple(self.arrivals),
            tokens=usage.completion_tokens,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=(details.cached_tokens or 0) if details else 0,
            text="".join(self._events.content),
        )


async def ask(port: int, model: str, messages: list[Message], output_tokens: int, on_text: OnText = _ignore) -> Answer:
    """One streamed, greedy chat completion. Raises TroubleError."""
    body = json.dumps(
        {
            "model": model,
            "messages": messages,
            "max_tokens": output_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    sent = time.monotonic()
    try:
        transport, exchange = await asyncio.get_running_loop().create_connection(
            lambda: _Exchange(head.encode() + body, on_text), "127.0.0.1", port
        )
    except OSError as error:
        raise RefusedError("connection refused or reset") from error
    exchange.sent = sent
    try:
        await exchange.done
    finally:
        transport.close()
    return exchange.answer()


class Clients:
    """The clients of one job and what they met."""

    def __init__(self, job: LoadJob) -> None:
        self._job = job
        self._asked = 0
        self._deadline = asyncio.get_running_loop().time() + job.seconds
        self.troubles: dict[str, int] = {}

    async def one(self, words: int, output_tokens: int, on_text: OnText = _ignore) -> Answer | None:
        """None after a trouble that is not tried again, or when the job's time is up."""
        job = self._job
        self._asked += 1
        prompt = prompts.text(job.seed * 100_000 + self._asked, words)
        while True:
            try:
                async with asyncio.timeout_at(self._deadline):
                    return await ask(job.port, job.model, [user(prompt)], output_tokens, on_text)
            except TimeoutError:
                self._note("no answer in time")
                return None
            except TroubleError as trouble:
                self._note(str(trouble))
                if not (job.retry and isinstance(trouble, RefusedError)):
                    return None
            await asyncio.sleep(_RETRY_PAUSE)

    def _note(self, trouble: str) -> None:
        self.troubles[trouble] = self.troubles.get(trouble, 0) + 1

    def words(self, client: int) -> int:
        return prompts.ragged(self._job.prompt_words, client)


async def saturate(job: LoadJob, clients: Clients) -> tuple[list[Answer], list[list[float]]]:
    """Every client makes its requests one after the other."""

    async def client(i: int) -> list[Answer | None]:
        return [await clients.one(clients.words(i), job.output_tokens) for _ in range(job.requests)]

    rows = await asyncio.gather(*(client(i) for i in range(job.clients)))
    return [answer for row in rows for answer in row if answer is not None], []


async def probe(job: LoadJob, clients: Clients) -> tuple[list[Answer], list[list[float]]]:
    """While the clients keep streaming, one more makes short requests; its answers count. Then the streams are cut."""

    async def probes() -> list[Answer | None]:
        return [await clients.one(job.prompt_words, 2) for _ in range(job.requests)]

    return await _beside_streams(job, clients, probes)


async def stall(job: LoadJob, clients: Clients) -> tuple[list[Answer], list[list[float]]]:
    """While the clients keep streaming, one long prompt arrives; its answer counts. Then the streams are cut."""

    async def long() -> list[Answer | None]:
        return [await clients.one(job.long_words, 8)]

    return await _beside_streams(job, clients, long)


async def _beside_streams(
    job: LoadJob, clients: Clients, measure: Callable[[], Awaitable[list[Answer | None]]]
) -> tuple[list[Answer], list[list[float]]]:
    background: list[list[float]] = []
    ready = [asyncio.Event() for _ in range(job.clients)]

    async def stream(i: int) -> None:
        while True:
            arrivals: list[float] = []
            background.append(arrivals)

            def on_text(now: float, arrivals: list[float] = arrivals) -> None:
                arrivals.append(now)
                if len(arrivals) == _STREAMING:
                    ready[i].set()

            answer = await clients.one(clients.words(i), job.output_tokens, on_text)
            ready[i].set()
            if answer is None:
                return

    streams = [asyncio.create_task(stream(i)) for i in range(job.clients)]
    await asyncio.gather(*(event.wait() for event in ready))
    answers = await measure()
    for task in streams:
        task.cancel()
    if streams:
        await asyncio.wait(streams)
        await asyncio.sleep(_SETTLE_SECONDS)  # the server finds out that they are gone
    return [answer for answer in answers if answer is not None], background


async def run(job: LoadJob) -> LoadReport:
    clients = Clients(job)
    scenario = {Scenario.SATURATE: saturate, Scenario.PROBE: probe, Scenario.STALL: stall}[job.scenario]
    cpu, wall = time.process_time(), time.monotonic()
    answers, background = await scenario(job, clients)
    return LoadReport(
        answers=answers,
        background=background,
        troubles=clients.troubles,
        cpu_seconds=time.process_time() - cpu,
        wall_seconds=time.monotonic() - wall,
    )


if __name__ == "__main__":
    jobs.answer(uvloop.run(run(jobs.serve(LoadJob))))
