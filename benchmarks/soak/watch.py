"""The server's processes, sampled: memory, descriptors, threads."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import psutil

_WORKER: Final = "mlx_server_nano.worker"
_REST_SECONDS: Final = 90.0
_PAUSE_SECONDS: Final = 20.0
_SETTLE_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Sample:
    """Of one process. resident: bytes. at: on time.monotonic's clock."""

    at: float
    resident: int
    descriptors: int
    threads: int


@dataclass(frozen=True, slots=True)
class Quiet:
    """The gateway while nobody asks anything and no model is loaded. processes: with it. left: models that have not gone."""

    resident: int
    descriptors: int
    threads: int
    processes: int
    left: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pause:
    """All workers together while no request runs and a model stays loaded, in bytes. workers: their process ids. caches: what
    is kept for later requests."""

    at: float
    workers: frozenset[int]
    resident: int
    caches: int


@dataclass(slots=True)
class Watch:
    """samples: by process id. counts: how many processes there were, by time."""

    gateway: psutil.Process
    samples: defaultdict[int, list[Sample]] = field(default_factory=lambda: defaultdict(list))
    counts: list[tuple[float, int]] = field(default_factory=list)
    seen: set[psutil.Process] = field(default_factory=set)

    def family(self) -> list[psutil.Process]:
        """The gateway and all that it started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            found = [self.gateway, *self.gateway.children(recursive=True)]
            self.seen |= set(found)
            return found
        return []

    def workers(self) -> list[psutil.Process]:
        found = []
        for process in self.family()[1:]:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if _WORKER in process.cmdline():
                    found.append(process)
        return found

    def look(self) -> list[Sample]:
        """A sample of each process, the gateway first."""
        now, found = time.monotonic(), []
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                with process.oneshot():
                    sample = Sample(now, process.memory_info().rss, process.num_fds(), process.num_threads())
                self.samples[process.pid].append(sample)
                found.append(sample)
        self.counts.append((now, len(found)))
        return found

    def left_over(self, seconds: float = 20.0) -> list[psutil.Process]:
        """What still lives of all that was ever seen."""
        alive: list[psutil.Process] = psutil.wait_procs(list(self.seen), timeout=seconds)[1]
        return alive

    async def pause(self, http: httpx.AsyncClient) -> Pause:
        """Wait until no request runs, and look."""
        end = time.monotonic() + _PAUSE_SECONDS
        while any(model["running"] or model["waiting"] for model in await _models(http)):
            if time.monotonic() > end:
                break
            await asyncio.sleep(0.2)
        await asyncio.sleep(_SETTLE_SECONDS)
        models = await _models(http)
        workers = {worker.pid: worker.memory_info().rss for worker in self.workers()}
        caches = sum(model["kv_bytes"] + model["prefix_cache_bytes"] for model in models)
        return Pause(time.monotonic(), frozenset(workers), sum(workers.values()), caches)

    async def rest(self, http: httpx.AsyncClient) -> Quiet:
        """Wait until all models have unloaded and the spare worker is alone, and look."""
        end = time.monotonic() + _REST_SECONDS
        while (models := (await http.get("/health")).json()["models"]) or len(self.workers()) != 1:
            if time.monotonic() > end:
                break
            await asyncio.sleep(0.5)
        await asyncio.sleep(_SETTLE_SECONDS)
        gateway, *others = self.look()
        left = tuple(f"{model['id']} {model['state']} {model['running']}" for model in models)
        return Quiet(gateway.resident, gateway.descriptors, gateway.threads, 1 + len(others), left)


async def _models(http: httpx.AsyncClient) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await http.get("/admin/status")).json()["models"]
    return found
