"""A server-sent event response."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from starlette.types import Send

# X-Accel-Buffering keeps nginx from collecting the stream.
_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
COMMENT: Final = b": keep-alive\n\n"


class EventStream:
    """Nothing is sent before the first `write`, so an error up to then still has its HTTP status. After `interval` seconds
    of silence, before the first write as well, what `keep_alive` gives goes out; from then on the status is 200.

    A block: leaving it ends the keep-alives, not the response; `close` does that.
    """

    def __init__(self, send: Send, interval: float, keep_alive: Callable[[], bytes]) -> None:
        self._send = send
        self._interval = interval
        self._keep_alive = keep_alive
        self._clock = asyncio.get_running_loop().time
        self._last_write = self._clock()
        self._lock = asyncio.Lock()
        self.started = False

    async def __aenter__(self) -> Self:
        self._heart = asyncio.create_task(self._beat())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._heart.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._heart

    async def write(self, data: bytes) -> None:
        """Send whole events, in one network write. Waits while the client reads too slowly."""
        await self._write(data, more=True)

    async def close(self, data: bytes) -> None:
        """Send the last events and end the response."""
        await self._write(data, more=False)

    async def _write(self, data: bytes, *, more: bool) -> None:
        async with self._lock:
            if not self.started:
                await self._send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
                self.started = True
            await self._send({"type": "http.response.body", "body": data, "more_body": more})
            self._last_write = self._clock()

    async def _beat(self) -> None:
        while True:
            rest = self._last_write + self._interval - self._clock()
            if rest > 0:
                await asyncio.sleep(rest)
            elif self._lock.locked():
                # The client reads too slowly: no silence. Numbered events must not be made before their turn comes.
                await asyncio.sleep(self._interval)
            else:
                await self.write(self._keep_alive())
