"""One model's place in the server: from the first request for it until its worker is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from mlx_server_nano.errors import ServerError
from mlx_server_nano.models.lease import Loaded
from mlx_server_nano.models.names import ModelRef
from mlx_server_nano.models.worker import Worker


class ModelState(StrEnum):
    DOWNLOADING = "downloading"
    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """How a model is.

    progress: of the download or the load, 0 to 1. running: unfinished requests; waiting: those of them that the worker
    has not begun with. memory_bytes: what it is reckoned to take, 0 until there is room for it; kv_bytes: running requests'
    caches in it, prefix_cache_bytes: those kept for later ones. idle_seconds_left: until it is unloaded; None while it is in
    use, or if it never will be. loaded_since: Unix seconds, None until it is loaded. pinned: it is not unloaded for time or
    room. context_length: tokens, None until it is loaded.
    """

    id: str
    state: ModelState
    progress: float
    running: int
    waiting: int
    memory_bytes: int
    kv_bytes: int
    prefix_cache_bytes: int
    idle_seconds_left: float | None
    loaded_since: float | None
    pinned: bool
    context_length: int | None


class Slot:
    """A mutable record; the manager moves it through its states.

    arrival: the task that downloads and loads it. ready: the loaded model, or the error why there is none. leases: how many
    wait for the model or use it; while there is one it is not unloaded. reserved_bytes: its estimated memory, once there is room
    for it.
    """

    def __init__(self, ref: ModelRef) -> None:
        self.key = ref.key
        self.ref = ref
        self.state = ModelState.LOADING if ref.folder is not None else ModelState.DOWNLOADING
        self.ready: asyncio.Future[Loaded] = asyncio.get_running_loop().create_future()
        self.arrival: asyncio.Task[None]
        self.worker: Worker | None = None
        self.leases = 0
        self.last_used = 0.0
        self.reserved_bytes = 0
        self.loaded_since: float | None = None
        self._progress = 0.0
        self._idle_timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        return self.state is ModelState.READY and self.leases == 0

    @property
    def pinned(self) -> bool:
        return bool(self.ref.options.loading.pinned)

    @property
    def memory_bytes(self) -> int:
        return max(self.reserved_bytes, self.worker.memory_bytes if self.worker is not None else 0)

    def enter(self, state: ModelState) -> None:
        self.state = state
        self._progress = 0.0 if state is ModelState.LOADING else 1.0

    def set_progress(self, fraction: float) -> None:
        self._progress = fraction

    def fail(self, error: ServerError) -> None:
        """Tell everybody who waits. The next request gets a new slot."""
        self.ready.set_exception(error)
        self.ready.exception()  # there may be nobody left

    def set_idle_timer(self, seconds: float, on_idle: Callable[[], object]) -> None:
        self._idle_timer = asyncio.get_running_loop().call_later(seconds, on_idle)

    def cancel_idle_timer(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    def status(self) -> ModelStatus:
        timer, worker = self._idle_timer, self.worker
        return ModelStatus(
            id=self.ref.name,
            state=self.state,
            progress=self._progress,
            running=worker.running if worker is not None else 0,
            waiting=worker.waiting if worker is not None else 0,
            memory_bytes=self.memory_bytes,
            kv_bytes=worker.kv_bytes if worker is not None else 0,
            prefix_cache_bytes=worker.prefix_bytes if worker is not None else 0,
            idle_seconds_left=None if timer is None else max(timer.when() - asyncio.get_running_loop().time(), 0.0),
            loaded_since=self.loaded_since,
            pinned=self.pinned,
            context_length=None if self.loaded_since is None else self.ready.result().info.context_length,
        )
