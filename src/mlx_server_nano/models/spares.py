"""Worker processes with their imports done, waiting for a model."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Final

from mlx_server_nano.errors import UnavailableError, WorkerDiedError
from mlx_server_nano.models.worker import Worker
from mlx_server_nano.protocol import Device

FIRST_DELAY: Final = 1.0  # seconds after a first failure; each further one doubles it
LAST_DELAY: Final = 60.0

_log = logging.getLogger(__name__)


class Spares:
    """Hands out ready workers, and with `keep` has one waiting.

    While no worker can be started, `problem` says why, `take` fails with that at once, and a start is tried again at growing
    intervals; so it is when a waiting worker dies. device: what the last worker said that it runs on. starts: of
    processes.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], *, keep: bool) -> None:
        self._command = command
        self._environment = environment
        self._keep = keep
        self._failures = 0
        self._spare: Worker | None = None
        self._filling: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._closed = False
        self.problem: str | None = None
        self.device: Device | None = None
        self.starts = 0

    async def take(self) -> Worker:
        """A ready worker, which is the caller's from then on. Raises UnavailableError if none can be started."""
        if self._spare is None and self._filling is not None:
            await asyncio.wait({self._filling})  # the one on its way is here sooner than another
        if self._spare is not None:
            worker, self._spare = self._spare, None
            worker.on_exit = _nothing
        elif self.problem is not None:
            raise UnavailableError(self.problem)
        else:
            worker = await self._start()
        self._failures = 0
        return worker

    async def give_back(self, worker: Worker) -> None:
        """Return a worker that has loaded nothing."""
        if worker.alive and self._spare is None and self._keep and not self._closed:
            self._put(worker)
        else:
            await worker.stop()

    def refill(self) -> None:
        """Start a spare if there should be one and is none; called when the machine has time for that."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        wanted = (self._keep or self.problem is not None) and not self._closed
        if wanted and self._spare is None and self._filling is None:
            self._filling = asyncio.create_task(self._fill())

    async def close(self) -> None:
        self._closed = True
        self.refill()  # drops the timer
        if self._filling is not None:
            self._filling.cancel()
            await asyncio.wait({self._filling})
        if self._spare is not None:
            await self._spare.stop()

    async def _start(self) -> Worker:
        worker = Worker()
        self.starts += 1
        try:
            self.device = await worker.start(self._command, self._environment)
        except (OSError, WorkerDiedError) as error:  # TimeoutError is an OSError
            self.problem = f"No worker process can be started. {str(error) or 'It does not become ready.'}"
            self._retry_later(self.problem)
            raise UnavailableError(self.problem) from error
        self.problem = None
        return worker

    async def _fill(self) -> None:
        try:
            worker = await self._start()
        except UnavailableError:
            return
        finally:
            self._filling = None
        self._put(worker)

    def _put(self, worker: Worker) -> None:
        self._spare = worker
        worker.on_exit = self._died

    def _died(self) -> None:
        self._spare = None
        if not self._closed:
            self._retry_later("A waiting worker process died.")

    def _retry_later(self, reason: str) -> None:
        delay = min(FIRST_DELAY * 2**self._failures, LAST_DELAY)
        self._failures += 1
        _log.error("%s Next try in %g s", reason, delay)
        if self._retry is None and not self._closed:
            self._retry = asyncio.get_running_loop().call_later(delay, self.refill)


def _nothing() -> None:
    pass
