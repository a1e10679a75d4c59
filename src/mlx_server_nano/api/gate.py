"""Who is being served, and the one way to end a request from outside: the client left, or the server stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Self

from starlette.types import Receive

from mlx_server_nano.errors import UnavailableError


class ClientGoneError(Exception):
    """Nobody waits for the answer any more."""


class Interrupt:
    """Ends the enclosed work, as asyncio.timeout does: `fire(error)` cancels it, and the block raises `error`.

    One may be entered again and again; fired outside its block, it raises at the next entry.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._error: Exception | None = None

    def fire(self, error: Exception) -> None:
        """Only the first error counts."""
        if self._error is None:
            self._error = error
            if self._task is not None:
                self._task.cancel()

    def __enter__(self) -> Self:
        if self._error is not None:
            raise self._error
        self._task = asyncio.current_task()
        if self._task is None:
            raise RuntimeError("an Interrupt needs a task")
        self._cancelling = self._task.cancelling()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        task, self._task = self._task, None
        if task is not None and self._error is not None:
            ours = task.uncancel() <= self._cancelling
            if ours and kind is not None and issubclass(kind, asyncio.CancelledError):
                raise self._error from None


class Gate:
    """Lets requests in, counts them, and when the server stops lets none in and those inside finish."""

    def __init__(self) -> None:
        self._inside: set[Interrupt] = set()
        self._draining = False

    @property
    def draining(self) -> bool:
        return self._draining

    @property
    def idle(self) -> bool:
        return not self._inside

    def drain(self) -> None:
        """Let nobody in any more."""
        self._draining = True

    def interrupt(self) -> None:
        """End what still runs."""
        for request in self._inside:
            request.fire(UnavailableError("The server is shutting down."))

    def check(self) -> None:
        """Raises UnavailableError while draining."""
        if self._draining:
            raise UnavailableError("The server is shutting down and takes no new requests.")

    @contextmanager
    def admit(self) -> Iterator[Interrupt]:
        """The enclosed block is one request, and the server does not stop before it ends. Raises UnavailableError."""
        self.check()
        interrupt = Interrupt()
        self._inside.add(interrupt)
        try:
            yield interrupt
        finally:
            self._inside.discard(interrupt)


@asynccontextmanager
async def ending_with_client(receive: Receive, interrupt: Interrupt) -> AsyncIterator[None]:
    """Fires the interrupt when the client disconnects. The request's body must have been read."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        interrupt.fire(ClientGoneError())

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()
