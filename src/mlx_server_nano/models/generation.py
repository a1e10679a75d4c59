"""The answer to a request, or to several that belong together, as a worker sends it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from mlx_server_nano.errors import ServerError, from_failure
from mlx_server_nano.protocol import Answer, Delta, Event, Failed


class Generation:
    """Events of one request or of several that end together if one fails; made by `Worker.generate`. For one reader,
    which takes all that is pending at once:

        while not generation.finished:
            for event in await generation.next(timeout=5):
                ...

    Whoever stops reading early must call `cancel`.
    """

    __slots__ = ("_begun", "_cancel", "_error", "_events", "_open", "_waiter", "request_ids")

    def __init__(self, request_ids: Sequence[int], choices: int, cancel: Callable[[], None]) -> None:
        """choices: of all requests together."""
        self.request_ids = request_ids
        self._cancel = cancel
        self._open = choices
        self._events: list[Event] = []
        self._error: ServerError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._begun = False

    @property
    def waiting(self) -> bool:
        """Nothing has come yet."""
        return not self._begun

    @property
    def open_choices(self) -> int:
        """Choices that have no finish reason yet."""
        return self._open

    @property
    def finished(self) -> bool:
        """Nothing more will come: every choice has its finish reason and all events were taken, or it was cancelled."""
        return self._open == 0 and not self._events and self._error is None

    async def next(self, timeout: float | None = None) -> list[Event]:
        """All pending events, `Started` and `Delta`; waits for at least one. [] after `timeout` seconds, and when finished.

        Raises the ServerError that ended the request, or WorkerDiedError, after the last event before it.
        """
        if not self._events and self._error is None and self._open:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = None if timeout is None else loop.call_later(timeout, self._wake)
            try:
                await self._waiter
            finally:
                self._waiter = None
                if timer is not None:
                    timer.cancel()
        if self._events:
            events, self._events = self._events, []
            return events
        if self._error is not None:
            raise self._error
        return []

    def cancel(self) -> None:
        """Nobody reads any more: the worker drops the request before its next step. A second time does nothing."""
        if self._open and self._error is None:
            self._cancel()
        self._open = 0
        self._events.clear()
        self._error = None
        self._wake()

    def push(self, event: Event) -> bool:
        """For the worker's handle: take one event in. True if it is the last."""
        if type(event) is Failed:
            self.fail(from_failure(event.failure))
            return True
        self._begun = True
        self._events.append(event)
        if event.finish is not None if type(event) is Delta else isinstance(event, Answer):
            self._open -= 1
        self._wake()
        return self._open == 0

    def fail(self, error: ServerError) -> None:
        """For the worker's handle: end with an error."""
        self._error = error
        self._wake()

    def _wake(self) -> None:
        # The reader runs only after all of a frame's events are here: one wake-up per frame.
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
