"""What a streamed token costs in the gateway, without a model: microseconds of its own CPU time.

    python -m benchmarks.hotpath

A stand-in for the worker, a process of its own, posts one frame a step with a token for each stream, paced so that no two
frames meet in one read. In this process the frames are decoded, dispatched, read by the format machine, encoded as
server-sent events and written: once to a bare ASGI `send`, once through uvicorn's protocol to a transport that drops
everything. What a stream costs once (the request, its decoding, its end) is taken out by measuring two lengths."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from statistics import median
from typing import Any, Final

import uvicorn
import uvloop
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from mlx_server_nano.api.app import build_app
from mlx_server_nano.api.gate import Gate
from mlx_server_nano.config import Settings
from mlx_server_nano.models.catalog import Catalog
from mlx_server_nano.models.manager import Manager
from mlx_server_nano.protocol import (
    Delta,
    Device,
    FrameReader,
    Generate,
    Load,
    Loaded,
    Ready,
    Started,
    Step,
    ToWorker,
    to_frame,
)
from mlx_server_nano.types import FinishReason, GenerationRequest, ModelInfo

_TEMPLATE: Final = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}<think></think>"
_PIECES: Final = (" the", " server", " writes", " one", ",", " two", ".\n", " words")
_SHORT: Final = 20


def stand_in(fd: int, streams: int, pause: float) -> None:
    """A worker that answers `streams` requests together, `max_tokens` steps, and then waits for the next ones."""
    gateway = socket.socket(fileno=fd)
    reader: FrameReader[ToWorker] = FrameReader(ToWorker)
    waiting: list[Generate] = []
    gateway.sendall(to_frame(Ready(Device(name="none", backend="none", memory_bytes=None))))
    while data := gateway.recv(1 << 16):
        for message in reader.feed(data):
            if isinstance(message, Load):
                gateway.sendall(to_frame(Loaded(_INFO)))
            elif isinstance(message, Generate):
                waiting.append(message)
        if len(waiting) == streams:
            _answer(gateway, waiting, pause)
            waiting = []


def _answer(gateway: socket.socket, requests: list[Generate], pause: float) -> None:
    request = requests[0].request
    steps = (isinstance(request, GenerationRequest) and request.max_tokens) or 1
    gateway.sendall(to_frame(Step(tuple(Started(r.request_id, 100, 0, "<think></think>") for r in requests))))
    for i in range(steps):
        time.sleep(pause)
        finish = FinishReason.LENGTH if i == steps - 1 else None
        text = _PIECES[i % len(_PIECES)]
        gateway.sendall(
            to_frame(Step(tuple(Delta(r.request_id, 0, text, 1, finish=finish) for r in requests), 1 << 30))
        )


_INFO: Final = ModelInfo(
    model_type="qwen3",
    context_length=1 << 20,
    vocab_size=1000,
    weights_bytes=0,
    chat_template=_TEMPLATE,
    chats=True,
    special_tokens={},
    batchable=True,
)

Sender = Callable[[ASGIApp, bytes], Awaitable[int]]


async def to_asgi(app: ASGIApp, body: bytes) -> int:
    """Call the application itself. Gives the bytes of the response's body."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))],
    }
    sent = 0
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        return pending.pop() if pending else await asyncio.get_running_loop().create_future()

    async def send(message: MutableMapping[str, Any]) -> None:
        nonlocal sent
        sent += len(message.get("body", b""))

    await app(scope, receive, send)
    return sent


class _Drain(asyncio.Transport):
    """Counts what is written and drops it."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = 0
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def write(self, data: Any) -> None:
        self.sent += len(data)

    def is_closing(self) -> bool:
        return self.closed.done()

    def close(self) -> None:
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def to_uvicorn(app: ASGIApp, body: bytes) -> int:
    """Through the HTTP server's protocol. Gives the bytes of the whole response."""
    config = uvicorn.Config(app, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False)
    config.load()
    protocol = HttpToolsProtocol(config, ServerState(), {})
    transport = _Drain()
    protocol.connection_made(transport)
    protocol.data_received(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    await transport.closed
    return transport.sent


async def _cpu_seconds(app: ASGIApp, sender: Sender, model: str, streams: int, tokens: int) -> tuple[float, int]:
    """The CPU time of this process, and the bytes written, for that many streams of that many tokens."""
    body = json.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": "Hello"}],
            "max_tokens": tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()
    started = time.process_time()
    sent = await asyncio.gather(*(sender(app, body) for _ in range(streams)))
    return time.process_time() - started, sum(sent)


async def measure(streams: int, tokens: int, rounds: int, pause: float) -> None:
    command = [sys.executable, "-m", "benchmarks.hotpath", f"--streams={streams}", f"--pause={pause}"]
    with tempfile.TemporaryDirectory() as folder:
        for name, content in (("config.json", '{"model_type": "qwen3"}'), ("tokenizer.json", "{}")):
            (Path(folder) / name).write_text(content)
        (Path(folder) / "model.safetensors").write_bytes(b"")
        settings, catalog, gate = Settings(spare_worker=False, max_batch_size=streams), Catalog(), Gate()
        manager = Manager(settings, catalog, command=command)
        app = build_app(settings, manager, catalog, gate)
        await manager.start()
        try:
            print(f"| {streams} streams | µs a token | µs a request | bytes a token |\n|---|---:|---:|---:|")
            for name, sender in (("to ASGI's send", to_asgi), ("through uvicorn", to_uvicorn)):
                await _cpu_seconds(app, sender, folder, streams, _SHORT)
                per_token, per_request = [], []
                for _ in range(rounds):
                    short, short_bytes = await _cpu_seconds(app, sender, folder, streams, _SHORT)
                    long, long_bytes = await _cpu_seconds(app, sender, folder, streams, _SHORT + tokens)
                    per_token.append((long - short) / tokens / streams)
                    per_request.append(short / streams - per_token[-1] * _SHORT)
                size = (long_bytes - short_bytes) / tokens / streams
                print(f"| {name} | {1e6 * median(per_token):.1f} | {1e6 * median(per_request):,.0f} | {size:.0f} |")
        finally:
            await manager.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pause", type=float, default=0.004, help="seconds between two frames")
    parser.add_argument("--fd", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.fd is not None:
        stand_in(given.fd, given.streams, given.pause)
        return
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    uvloop.run(measure(given.streams, given.tokens, given.rounds, given.pause))


if __name__ == "__main__":
    main()
