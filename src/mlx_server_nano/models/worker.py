"""A worker process, as the gateway sees it: started, loaded, asked, supervised and always reaped. See `protocol`."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mlx_server_nano.errors import InvalidRequestError, WorkerDiedError, from_failure
from mlx_server_nano.models.counts import ModelCounts
from mlx_server_nano.models.generation import Generation
from mlx_server_nano.models.process import spawn
from mlx_server_nano.protocol import (
    Allow,
    Cancel,
    Device,
    FrameError,
    FrameReader,
    Generate,
    Load,
    Loaded,
    LoadFailed,
    LoadOptions,
    LoadProgress,
    Ready,
    Step,
    ToGateway,
    ToWorker,
    Unload,
    to_frame,
)
from mlx_server_nano.types import ModelInfo, Work

COMMAND: Final = (sys.executable, "-P", "-m", "mlx_server_nano.worker")
START_TIMEOUT: Final = 120.0  # seconds for a worker's imports, on a busy machine
STOP_GRACE: Final = 5.0  # seconds between the end of the socket and SIGKILL

_log = logging.getLogger(__name__)


class Worker:
    """One worker process: `start`, then `load` a model, once; `generate` as often as wanted; `stop`.

    It may die at any time: then what waits for it raises WorkerDiedError, and `on_exit` is called.
    memory_bytes, kv_bytes, prefix_bytes: what it last said that MLX holds, and its rows and its prefix cache of that.
    counts: where it counts for its model.

    Its standard error is the server's, so what MLX prints before it aborts stands in the server's log.
    """

    def __init__(self, stop_grace: float = STOP_GRACE) -> None:
        loop = asyncio.get_running_loop()
        self._stop_grace = stop_grace
        self._reader: FrameReader[ToGateway] = FrameReader(ToGateway)
        self._reply: asyncio.Future[Any] = loop.create_future()
        self._on_progress: Callable[[float], None] = lambda _: None
        self._generations: dict[int, Generation] = {}
        self._ids = itertools.count(1)
        self._closed: asyncio.Future[None] = loop.create_future()
        self._end: str | None = None
        self._stopping = False
        self._transport: asyncio.WriteTransport
        self._process: asyncio.subprocess.Process
        self._supervisor: asyncio.Task[None]
        self.memory_bytes = self.kv_bytes = self.prefix_bytes = 0
        self.counts = ModelCounts()
        self.on_exit: Callable[[], None] = lambda: None

    async def start(
        self, command: Sequence[str], environment: Mapping[str, str], timeout: float = START_TIMEOUT
    ) -> Device:
        """Start the process and wait until it can load a model. Once, before everything else.

        Raises OSError if there can be no process, WorkerDiedError if it ends, TimeoutError if it says nothing.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            self._transport, _ = await asyncio.get_running_loop().create_unix_connection(
                lambda: _Wire(self._received, self._closed), sock=ours
            )
            try:
                self._process = await spawn(
                    *command,
                    "--fd",
                    str(theirs.fileno()),
                    pass_fds=[theirs.fileno()],
                    stdin=asyncio.subprocess.DEVNULL,
                    env=dict(environment),
                )
            except BaseException:
                self._transport.abort()
                raise
        self._supervisor = asyncio.create_task(self._supervise())
        try:
            # Not wait_for: on Python 3.11 it swallows a cancellation that comes together with the reply.
            async with asyncio.timeout(timeout):
                device: Device = await self._reply
        except BaseException:
            await self.stop()
            raise
        return device

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._end is None

    @property
    def running(self) -> int:
        """Requests that are not finished."""
        return len(set(self._generations.values()))

    @property
    def waiting(self) -> int:
        """Those of them that the worker has not begun with."""
        return sum(generation.waiting for generation in set(self._generations.values()))

    @property
    def open_choices(self) -> int:
        """Choices of all requests that have no finish reason yet."""
        return sum(generation.open_choices for generation in set(self._generations.values()))

    async def load(self, folder: Path, options: LoadOptions, on_progress: Callable[[float], None]) -> ModelInfo:
        """Load a model. `on_progress` gets the fraction of the weights' bytes.

        Raises WorkerDiedError, or the ServerError that the worker failed with.
        """
        self._on_progress = on_progress
        self._reply = asyncio.get_running_loop().create_future()
        self._send(Load(str(folder), options))
        info: ModelInfo = await self._reply
        self._refuse_if_dead()
        return info

    def generate(self, *requests: Work) -> Generation:
        """Send requests that belong together to the loaded model. Raises WorkerDiedError, and InvalidRequestError for what no
        frame can hold."""
        self._refuse_if_dead()
        ids = [next(self._ids) for _ in requests]
        try:
            frames = [to_frame(Generate(*numbered)) for numbered in zip(ids, requests, strict=True)]
        except (OverflowError, RecursionError):
            # Schemas and earlier arguments are JSON of the client's own, whose integers have no bounds.
            raise InvalidRequestError(
                "The request holds a number that is out of range, or is nested too deeply."
            ) from None
        self._transport.write(b"".join(frames))
        generation = Generation(ids, sum(request.n for request in requests), lambda: self._cancel(ids))
        self._generations.update(dict.fromkeys(ids, generation))
        return generation

    def allow(self, memory_bytes: int) -> None:
        """Tell the worker how much memory it may take from now on. One that is dead does not hear it."""
        if self._end is None:
            self._transport.write(to_frame(Allow(memory_bytes)))

    async def unload(self, seconds: float) -> None:
        """End the process, but let it write its prefix cache to disk for so long."""
        self._stopping = True
        if self._end is None:
            self._send(Unload(seconds))
            await asyncio.wait({self._supervisor}, timeout=seconds + self._stop_grace)
        await self.stop()

    async def stop(self) -> None:
        """End the process and wait until it is gone: it ends by itself at the end of the socket, else it is killed."""
        self._stopping = True
        self._transport.abort()
        await asyncio.shield(self._supervisor)

    def _refuse_if_dead(self) -> None:
        if self._end is not None:
            raise WorkerDiedError(self._end)

    def _send(self, message: ToWorker) -> None:
        self._refuse_if_dead()
        self._transport.write(to_frame(message))

    def _cancel(self, request_ids: Sequence[int]) -> None:
        for request_id in request_ids:
            if self._generations.pop(request_id, None) is not None and self._end is None:
                self._transport.write(to_frame(Cancel(request_id)))

    def _received(self, data: bytes) -> None:
        try:
            messages = self._reader.feed(data)
        except FrameError:
            _log.exception("worker %d sends what is no message; it is stopped", self.pid)
            self._transport.abort()
            return
        for message in messages:
            if type(message) is Step:
                self._step(message)
            elif isinstance(message, LoadProgress):
                self._on_progress(message.fraction)
            elif not self._reply.done():
                match message:
                    case Ready(device):
                        self._reply.set_result(device)
                    case Loaded(info):
                        self._reply.set_result(info)
                    case LoadFailed(failure):
                        self._reply.set_exception(from_failure(failure))

    def _step(self, step: Step) -> None:
        self.memory_bytes = step.memory_bytes or self.memory_bytes
        self.kv_bytes, self.prefix_bytes = step.kv_bytes, step.prefix_bytes
        self.counts.drafted_tokens += step.drafted_tokens
        self.counts.accepted_tokens += step.accepted_tokens
        generations = self._generations
        for event in step.events:
            generation = generations.get(event.request_id)
            if generation is not None and generation.push(event):
                del generations[event.request_id]
                self._cancel(generation.request_ids)  # of one that failed, the others

    async def _supervise(self) -> None:
        """Wait for the process's end, which nothing but this observes, and tell everybody."""
        process_end = asyncio.create_task(self._process.wait())
        ends: set[asyncio.Future[Any]] = {process_end, self._closed}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        # The other end follows: its last messages may still lie in the socket, or it is on its way out.
        await asyncio.wait(ends, timeout=self._stop_grace)
        self._transport.abort()
        if not process_end.done():
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        self._end = _describe(await process_end, stopped=self._stopping)
        error = WorkerDiedError(self._end)
        if not self._reply.done():
            self._reply.set_exception(error)
            self._reply.exception()  # nobody may be waiting
        for generation in set(self._generations.values()):
            generation.fail(error)
        self._generations.clear()
        self.on_exit()


class _Wire(asyncio.Protocol):
    def __init__(self, received: Callable[[bytes], None], closed: asyncio.Future[None]) -> None:
        self._received = received
        self._closed = closed

    def data_received(self, data: bytes) -> None:
        self._received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed.set_result(None)


def _describe(code: int, *, stopped: bool) -> str:
    if stopped:
        return "The worker process was stopped."
    if code >= 0:
        return f"The worker process ended with exit code {code}."
    name = next((known.name for known in signal.Signals if known == -code), f"signal {-code}")
    hint = {"SIGKILL": " (the system may be out of memory)", "SIGABRT": " (the server's log has its last words)"}.get(
        name, ""
    )
    return f"The worker process died of {name}{hint}."
