"""Many clients at once, each doing one thing after the other."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from benchmarks.soak.clients import Clients
from benchmarks.soak.journal import Journal, RefusedError
from benchmarks.soak.rude import RudeClients

_CLIENTS: Final = 8
_PATIENCE_SECONDS: Final = 300.0  # on a busy machine; what takes longer hangs


class Load:
    def __init__(self, clients: Clients, rude: RudeClients, journal: Journal, draw: random.Random) -> None:
        self._journal = journal
        self._draw = draw
        self._weights: dict[Callable[[], Awaitable[Any]], int] = {
            clients.known: 12,
            clients.tool: 2,
            clients.schema: 2,
            clients.several: 1,
            clients.embeddings: 2,
            clients.kept: 1,
            clients.look: 1,
            clients.mistaken: 1,
            rude.leaves: 4,
            rude.reads_slowly: 2,
            rude.sends_half: 2,
            rude.sends_slowly: 1,
            rude.talks_nonsense: 1,
        }

    async def run(self, until: float) -> None:
        """Returns when the last client has ended what it was doing."""
        await asyncio.gather(*(self._client(until) for _ in range(_CLIENTS)))

    async def _client(self, until: float) -> None:
        while time.monotonic() < until:
            (act,) = self._draw.choices(list(self._weights), list(self._weights.values()))
            await self._act(act)
            await asyncio.sleep(self._draw.random() * 0.5)

    async def _act(self, act: Callable[[], Awaitable[Any]]) -> None:
        name, sent = getattr(act, "__name__", str(act)), time.monotonic()
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await act()
        except TimeoutError:
            self._journal.hung(name, sent)
        except RefusedError as error:
            self._journal.refused(name, sent, error)
        except Exception as error:
            self._journal.failed(name, sent, error)
        else:
            self._journal.done[name] += 1
