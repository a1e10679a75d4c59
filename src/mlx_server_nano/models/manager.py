"""Which models run: leases, a worker for each loaded model, memory, idle time.

    async with manager.lease("qwen3-0.6b") as lease:
        generation = lease.generate(request)

A model is downloaded and loaded when it is first asked for, by a task of its own: all requests for it wait for that one
task, and it goes on to the end when they leave. Before a load, idle models are unloaded, the least recently used first,
until the new one fits. A worker that dies takes its own requests along; the next request starts over.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from mlx_server_nano.config import Settings, worker_environment
from mlx_server_nano.config.models import Loading, RequestDefaults, over
from mlx_server_nano.errors import (
    ModelInUseError,
    ModelLoadError,
    ModelNotFoundError,
    OutOfMemoryError,
    ServerError,
    UnavailableError,
    WorkerDiedError,
)
from mlx_server_nano.models import distributed
from mlx_server_nano.models.catalog import Catalog
from mlx_server_nano.models.counts import ModelCounts
from mlx_server_nano.models.files import Files
from mlx_server_nano.models.lease import Lease, Loaded
from mlx_server_nano.models.loading import ModelFiles, chat_model, load_options
from mlx_server_nano.models.memory import estimate, gibibytes, memory_limit
from mlx_server_nano.models.names import ModelRef
from mlx_server_nano.models.slot import ModelState, ModelStatus, Slot
from mlx_server_nano.models.spares import Spares
from mlx_server_nano.models.worker import COMMAND
from mlx_server_nano.protocol import Device

_UNLOAD_SECONDS: Final = 10.0  # for a prefix cache on its way to disk; a model that needs the memory waits as long
_KNOWN_NAMES: Final = 1000
_TELL_SECONDS: Final = 0.25  # between two states of a model on its way in

_log = logging.getLogger(__name__)


class Manager:
    """All models of a server. `start` before and `close` after use, on one event loop.

    command: how a worker process is started, None: as it is; `--fd N` is added to it.
    """

    def __init__(self, settings: Settings, catalog: Catalog, *, command: Sequence[str] | None = None) -> None:
        self._settings = settings
        self._catalog = catalog
        self._files = Files(settings, catalog)
        command = command or (*COMMAND, "--log-level", settings.log_level, "--log-format", settings.log_format)
        self._spares = Spares(command, worker_environment(), keep=settings.spare_worker)
        self._defaults = RequestDefaults(
            temperature=settings.default_temperature, max_tokens=settings.default_max_tokens
        )
        self._slots: dict[tuple[str, Loading], Slot] = {}
        self._known: dict[str, ModelRef] = {}  # what names were resolved to since the last model was unloaded
        self._leaving: set[Slot] = set()
        self._counts: defaultdict[str, ModelCounts] = defaultdict(ModelCounts)
        self._admission = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False

    @property
    def draining(self) -> bool:
        return self._draining

    @property
    def problem(self) -> str | None:
        """Why no model can be loaded, if none can."""
        return self._spares.problem

    @property
    def memory_limit(self) -> int:
        """Bytes for all models together; see `memory.memory_limit`."""
        device = self._spares.device
        return memory_limit(self._settings.max_memory, device.memory_bytes if device is not None else None)

    @property
    def memory_in_use(self) -> int:
        """Bytes, of all models together."""
        return sum(slot.memory_bytes for slot in (*self._slots.values(), *self._leaving))

    @property
    def device(self) -> Device | None:
        """What models run on; None until a worker has told."""
        return self._spares.device

    @property
    def worker_starts(self) -> int:
        """Processes, since the server started."""
        return self._spares.starts

    @property
    def counts(self) -> Mapping[str, ModelCounts]:
        """What has happened, by the models' names."""
        return self._counts

    def status(self) -> list[ModelStatus]:
        """Every model that is loaded, on its way in or on its way out."""
        return [slot.status() for slot in (*self._slots.values(), *self._leaving)]

    async def start(self) -> None:
        """Returns at once; a spare worker starts in the background, and pinned models are loaded."""
        self._spares.refill()
        self._spawn(self._load_pinned())

    async def _load_pinned(self) -> None:
        for name in await asyncio.to_thread(self._catalog.pinned):
            try:
                await self._slot(name)
            except ServerError as error:
                _log.error("%s is pinned, and can't be loaded: %s", name, error)

    def drain(self) -> None:
        """Give no more leases. Those given go on."""
        self._draining = True

    async def close(self) -> None:
        """Stop everything and wait until every process is gone. What still runs or waits ends with an error."""
        self.drain()
        for task in self._tasks:
            _call_off(task)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._spares.close()
        leaving, staying = list(self._leaving), list(self._slots.values())
        await asyncio.gather(*map(self._stop, leaving), *map(self._unload, staying))

    @asynccontextmanager
    async def lease(self, name: str) -> AsyncIterator[Lease]:
        """Use a model; waits until it is loaded.

        Raises what `Catalog.resolve`, `download` and `Worker.load` raise, OutOfMemoryError if it does not fit,
        UnavailableError while no worker can be started and when draining.
        """
        slot, ref = await self._slot(name)
        with self._kept(slot):
            # The future is shared: a waiter that is cancelled must not cancel it.
            loaded = await asyncio.shield(slot.ready)
            capacity = self._settings.max_batch_size + self._settings.max_queue
            lease = Lease(slot.ref.name, loaded, capacity, over(ref.options.requests, self._defaults))
            try:
                yield lease
            finally:
                lease.end()

    async def load(self, name: str) -> AsyncGenerator[ModelStatus, None]:
        """Load a model and tell how it is, again and again until it is ready. Raises as `lease`, and with its caller gone the
        load goes on."""
        slot, _ = await self._slot(name)
        with self._kept(slot):
            while not slot.ready.done():
                yield slot.status()
                await asyncio.wait({slot.ready}, timeout=_TELL_SECONDS)
            slot.ready.result()
            yield slot.status()

    async def unload(self, name: str, *, force: bool = False) -> str:
        """Unload a model by any of its names, or end its load; returns when its memory is free, with the name that clients
        are shown. force: also one that is pinned, or in use: then requests end with an error.

        Raises what `Catalog.resolve` raises, ModelNotFoundError if it is not loaded, ModelInUseError.
        """
        slot = next((slot for slot in self._slots.values() if slot.ref.name == name), None)
        if slot is None:
            ref = await asyncio.to_thread(self._catalog.resolve, name)
            slot = self._slots.get(ref.key)
        if slot is None:
            raise ModelNotFoundError(f"The model {name!r} is not loaded.", param="model")
        if not force and (slot.leases or slot.pinned):
            why = f"{slot.leases} request(s) use it" if slot.leases else "it is pinned"
            raise ModelInUseError(
                f"{slot.ref.name} is not unloaded: {why}. `force` unloads it all the same.", param="model"
            )
        if slot.state is ModelState.READY:
            await asyncio.shield(self._spawn(self._unload(slot)))
        else:
            _call_off(slot.arrival)
            await asyncio.wait({slot.arrival})
        return slot.ref.name

    @contextmanager
    def _kept(self, slot: Slot) -> Iterator[None]:
        """While it is entered, the model is not unloaded."""
        slot.cancel_idle_timer()
        slot.leases += 1
        try:
            yield
        finally:
            slot.leases -= 1
            self._rest(slot)

    async def _slot(self, name: str) -> tuple[Slot, ModelRef]:
        ref = self._known.get(name)
        if ref is None or ref.key not in self._slots:
            ref = await asyncio.to_thread(self._catalog.resolve, name)
        if self._draining:
            raise UnavailableError("The server is shutting down.")
        slot = self._slots.get(ref.key)
        if slot is None:
            slot = self._slots[ref.key] = Slot(ref)
            slot.arrival = self._spawn(self._bring_up(slot))
            slot.arrival.add_done_callback(lambda _: self._note_arrival(slot))
        if len(self._known) < _KNOWN_NAMES:
            self._known[name] = ref
        return slot, ref

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _bring_up(self, slot: Slot) -> None:
        error: ServerError
        try:
            await self._load(slot)
            return
        except ServerError as refusal:
            error = refusal
            if isinstance(error, WorkerDiedError):
                self._counts[slot.ref.name].crashes += 1
        except asyncio.CancelledError:  # by `close` or `unload`
            error = self._called_off(slot)
        except Exception as unexpected:
            _log.exception("Loading %s failed", slot.ref.name)
            error = ModelLoadError(f"{slot.ref.name} can't be loaded: {unexpected}")
        finally:
            self._spares.refill()
        _log.warning("%s is not loaded: %s", slot.ref.name, error)
        slot.fail(error)
        await self._unload(slot)

    def _note_arrival(self, slot: Slot) -> None:
        """A task that is cancelled before it begins runs none of its code."""
        if not slot.ready.done():
            slot.fail(self._called_off(slot))
            self._forget(slot)

    def _called_off(self, slot: Slot) -> UnavailableError:
        name = slot.ref.name
        return UnavailableError(
            "The server is shutting down." if self._draining else f"{name} was unloaded before it was ready."
        )

    async def _load(self, slot: Slot) -> None:
        started = time.monotonic()
        folder = slot.ref.folder or await self._download(slot)
        adapter, draft = await self._files.adapter(slot.ref), await self._files.draft(slot.ref, slot.set_progress)
        files = ModelFiles(folder, adapter, draft)
        slot.enter(ModelState.LOADING)
        loading = time.monotonic()
        options = load_options(self._settings, slot.ref, files, trusted=self._catalog.trusts(slot.ref.id))
        hosts = distributed.hosts_of(slot.ref, self._settings)
        if hosts is None:
            worker = await self._spares.take()
        else:
            options = distributed.restricted(options)
            worker = await distributed.start(distributed.launch_command(hosts, self._settings))
        try:
            await self._admit(slot, files)
        except BaseException:
            await (self._spares.give_back(worker) if hosts is None else worker.stop())
            raise
        slot.worker = worker
        counts = worker.counts = self._counts[slot.ref.name]
        info = await worker.load(folder, options, slot.set_progress)
        chat = await asyncio.to_thread(chat_model, self._settings, slot.ref, info)
        worker.on_exit = lambda: self._died(slot)
        counts.loads += 1
        counts.load_seconds += time.monotonic() - loading
        slot.enter(ModelState.READY)
        slot.loaded_since = time.time()
        slot.ready.set_result(Loaded(worker, info, chat))
        self._share_memory()
        _log.info("Loaded %s (%s) in %.1f s", slot.ref.name, info.model_type, time.monotonic() - started)
        self._rest(slot)

    async def _download(self, slot: Slot) -> Path:
        def on_progress(done: int, total: int) -> None:
            slot.set_progress(done / total if total else 0.0)
            if self._settings.max_memory is not None or self._spares.device is not None:
                # Else the limit is a guess from the machine's memory, and the device may have more.
                self._refuse_too_large(slot.ref.name, estimate(total // distributed.ranks_of(slot.ref, self._settings)))

        fetched = await self._files.fetch(slot.ref.id, on_progress)
        folder = Path(fetched.folder)
        slot.ref = replace(slot.ref, id=fetched.repository, folder=folder)
        return folder

    def _share_memory(self) -> None:
        """Tell the workers what they may take now that a model has come or gone: all that the others leave."""
        for slot in self._slots.values():
            if slot.state is ModelState.READY and slot.worker is not None:
                slot.worker.allow(self.memory_limit - self.memory_in_use + slot.memory_bytes)

    async def _admit(self, slot: Slot, files: ModelFiles) -> None:
        """Make room for a model and reserve it. Raises OutOfMemoryError, without having unloaded anything in vain if
        the model is too large by itself."""
        async with self._admission:
            need = estimate(
                await asyncio.to_thread(files.weights_bytes) // distributed.ranks_of(slot.ref, self._settings)
            )
            self._refuse_too_large(slot.ref.name, need)
            while (free := self.memory_limit - self.memory_in_use) < need:
                if self._leaving:
                    await asyncio.gather(*map(self._end, self._leaving))
                elif idle := [other for other in self._slots.values() if other.is_idle and not other.pinned]:
                    self._spawn(
                        self._unload(min(idle, key=lambda other: other.last_used))
                    )  # goes on if this is cancelled
                else:
                    kept = ", ".join(other.ref.name for other in self._slots.values() if other.reserved_bytes)
                    raise OutOfMemoryError(
                        f"{slot.ref.name} needs about {gibibytes(need)}, and {gibibytes(max(free, 0))} are free beside what"
                        f" is in use or pinned: {kept}. Try again later."
                    )
            slot.reserved_bytes = need

    def _refuse_too_large(self, model: str, need: int) -> None:
        if need > self.memory_limit:
            raise OutOfMemoryError(
                f"{model} needs about {gibibytes(need)} of memory, and {gibibytes(self.memory_limit)} is all that models may"
                " take (--max-memory)."
            )

    def _rest(self, slot: Slot) -> None:
        """Start the idle time of a model that nobody uses."""
        if slot.is_idle:
            slot.last_used = time.monotonic()
            timeout = slot.ref.options.loading.idle_timeout
            timeout = self._settings.idle_timeout if timeout is None else timeout
            if timeout and not slot.pinned:
                slot.set_idle_timer(timeout, lambda: self._spawn(self._unload(slot)))

    def _unload(self, slot: Slot) -> Coroutine[Any, Any, None]:
        """Forget a model at once, before anybody can lease it; the result waits for the end of its worker."""
        self._forget(slot)
        slot.enter(ModelState.UNLOADING)
        self._leaving.add(slot)
        return self._stop(slot)

    async def _stop(self, slot: Slot) -> None:
        if slot.worker is not None:
            _log.info("Unloading %s", slot.ref.name)
        await self._end(slot)
        self._leaving.discard(slot)  # if this is cancelled, `close` stops the worker
        self._share_memory()

    async def _end(self, slot: Slot) -> None:
        if slot.worker is not None and slot.loaded_since is not None and self._settings.prefix_cache_dir is not None:
            await slot.worker.unload(_UNLOAD_SECONDS)
        elif slot.worker is not None:
            await slot.worker.stop()

    def _died(self, slot: Slot) -> None:
        """A loaded model's worker is gone; if nobody stopped it, forget the model."""
        if self._slots.get(slot.key) is slot and slot.state is ModelState.READY:
            _log.error("%s: its worker process died; the next request starts another", slot.ref.name)
            self._counts[slot.ref.name].crashes += 1
            self._forget(slot)
            slot.enter(ModelState.UNLOADING)

    def _forget(self, slot: Slot) -> None:
        del self._slots[slot.key]
        self._known.clear()
        slot.cancel_idle_timer()


def _call_off(task: asyncio.Task[None]) -> None:
    """Cancel it once: a second time would interrupt its waiting for the processes that it ends."""
    if not task.cancelling():
        task.cancel()
