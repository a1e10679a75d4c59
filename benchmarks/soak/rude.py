"""Clients that do not behave: they leave, read slowly, send half of what they announce, or say nothing at all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
from collections.abc import AsyncIterator
from typing import Final

from benchmarks import prompts
from benchmarks.soak.dialects import Dialect, Question, body, refusal
from benchmarks.soak.journal import WrongError

_SLOW_BYTES: Final = 200
_SLOW_PAUSE: Final = 0.02
_RECEIVE_BUFFER: Final = 4096


class RudeClients:
    def __init__(self, port: int, models: list[str], draw: random.Random) -> None:
        self._port = port
        self._models = models
        self._draw = draw

    def only(self, models: list[str]) -> None:
        """Ask for no others from now on."""
        self._models = models

    async def leaves(self) -> None:
        """Leaves a stream in its middle, or before it has begun."""
        async with self._asking(400) as (reader, _):
            for _ in range(self._draw.randrange(12)):
                if not await reader.readline():
                    return

    async def reads_slowly(self) -> None:
        """A byte at a time for a while; then it leaves, or reads the rest. Raises RefusedError for an error instead of a
        stream."""
        answer = b""
        async with self._asking(150) as (reader, _):
            for _ in range(_SLOW_BYTES):
                byte = await reader.read(1)
                if not byte:
                    return
                answer += byte
                await asyncio.sleep(_SLOW_PAUSE)
            if self._draw.random() < 0.5:
                check_stream(answer + await reader.read())

    async def sends_half(self) -> None:
        """Half a body, or half a head, and then nothing for a while."""
        data = self._request(10)
        async with self._connection() as (_, writer):
            writer.write(data[: self._draw.randrange(1, len(data))])
            await asyncio.sleep(self._draw.random() * 5)

    async def sends_slowly(self) -> None:
        """A body in pieces; it is answered all the same."""
        data = self._request(4)
        async with self._connection() as (reader, writer):
            for start in range(0, len(data), 40):
                writer.write(data[start : start + 40])
                await writer.drain()
                await asyncio.sleep(0.05)
            head = await reader.readline()
            if not head.startswith(b"HTTP/1.1 "):
                raise WrongError(f"no answer to a slow request: {head!r}")

    async def talks_nonsense(self) -> None:
        """No HTTP at all, or bytes for a body; the server says so, or hangs up."""
        noise = self._draw.randbytes(300)
        request = (
            b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 300\r\n\r\n" + noise
        )
        for data, expected in ((noise + b"\r\n\r\n", b"HTTP/1.1 400"), (request, b"HTTP/1.1 400")):
            async with self._connection() as (reader, writer):
                writer.write(data)
                answer = await reader.read()
                if answer and not answer.startswith(expected):
                    raise WrongError(f"nonsense was answered with {answer[:60]!r}")

    async def crowd(self, size: int, seconds: float) -> None:
        """Idle connections. Meanwhile the server answers others."""
        async with contextlib.AsyncExitStack() as stack:
            await asyncio.gather(*(stack.enter_async_context(self._connection()) for _ in range(size)))
            await asyncio.sleep(seconds)

    def _request(self, tokens: int) -> bytes:
        question = Question(self._draw.choice(self._models), prompts.text(self._draw.randrange(1000), 30), tokens)
        content = json.dumps(body(Dialect.CHAT, question, stream=True)).encode()
        return _head("/v1/chat/completions", len(content)) + content

    @contextlib.asynccontextmanager
    async def _asking(self, tokens: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        async with self._connection() as (reader, writer):
            writer.write(self._request(tokens))
            await writer.drain()
            yield reader, writer

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """With a small receive buffer, so that a slow reader's server notices. It may be cut by either side."""
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", self._port))
        reader, writer = await asyncio.open_connection(sock=raw, limit=_RECEIVE_BUFFER)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


def check_stream(answer: bytes) -> None:
    """Raises WrongError for a stream without its end, RefusedError for an error instead of one."""
    head, _, content = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise refusal(int(head.split()[1]), content)
    if not content.endswith(b"\r\n0\r\n\r\n"):
        raise WrongError(f"the answer has no end: {answer[-100:]!r}")


def _head(path: str, length: int) -> bytes:
    lines = (f"POST {path} HTTP/1.1", "host: localhost", "connection: close", f"content-length: {length}", "", "")
    return "\r\n".join(lines).encode()
