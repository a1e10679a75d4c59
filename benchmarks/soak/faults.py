"""What is done to the server from outside."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import httpx
import psutil

from benchmarks.soak.journal import Journal
from benchmarks.soak.rude import RudeClients
from benchmarks.soak.watch import Watch

_CROWD: Final = 300
_POLL_SECONDS: Final = 0.01
_PATIENCE_SECONDS: Final = 8.0


class Faults:
    """Kills workers in every phase, freezes them for moments, sends crowds of idle connections; drawn by `draw`."""

    def __init__(
        self, http: httpx.AsyncClient, watch: Watch, journal: Journal, rude: RudeClients, draw: random.Random
    ) -> None:
        self._http = http
        self._watch = watch
        self._journal = journal
        self._rude = rude
        self._draw = draw

    async def inject(self, until: float, kill_until: float) -> None:
        """A fault every few seconds; no kills any more after `kill_until`, so that workers live long enough to grow."""
        while time.monotonic() < until:
            await asyncio.sleep(self._draw.uniform(2, 8))
            kinds: list[Callable[[], Awaitable[None]]] = [self._freeze, self._crowd]
            if time.monotonic() < kill_until:
                kinds += [
                    lambda: self._kill("loading"),
                    lambda: self._kill("unloading"),
                    lambda: self._kill("ready"),
                    lambda: self._kill("ready"),
                    lambda: self._kill(""),
                ]
            await self._draw.choice(kinds)()

    async def _kill(self, state: str) -> None:
        """Kill some worker while a model is in this state, if one soon is."""
        end = time.monotonic() + _PATIENCE_SECONDS
        states = await self._states()
        while not any(found.startswith(state) for found in states):
            if time.monotonic() > end:
                return
            await asyncio.sleep(_POLL_SECONDS)
            states = await self._states()
        await asyncio.sleep(self._draw.random() * 0.3)
        workers = self._watch.workers()
        if workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim = self._draw.choice(workers)
                victim.kill()
                self._journal.killed(victim.pid, ", ".join(sorted(set(states))) or "nothing loaded")

    async def _states(self) -> list[str]:
        found: dict[str, Any] = (await self._http.get("/health")).json()
        return [f"{model['state']}{' and at work' if model['running'] else ''}" for model in found["models"]]

    async def _freeze(self) -> None:
        """A worker that does nothing for a moment, as on a machine that swaps."""
        workers = self._watch.workers()
        if workers:
            frozen, start = self._draw.choice(workers), time.monotonic()
            with contextlib.suppress(ProcessLookupError):
                os.kill(frozen.pid, signal.SIGSTOP)
                try:
                    await asyncio.sleep(self._draw.uniform(0.2, 2))
                finally:
                    os.kill(frozen.pid, signal.SIGCONT)
                    self._journal.befell(f"worker {frozen.pid} frozen", start)

    async def _crowd(self) -> None:
        start = time.monotonic()
        await self._rude.crowd(_CROWD, 2.0)
        self._journal.befell("idle connections", start)
