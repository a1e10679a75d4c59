"""A manager on a bench: scripted workers, models without content."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mlx_server_nano.config import Settings
from mlx_server_nano.models.catalog import Catalog
from mlx_server_nano.models.generation import Generation
from mlx_server_nano.models.lease import Lease
from mlx_server_nano.models.manager import Manager
from mlx_server_nano.models.slot import ModelState
from mlx_server_nano.protocol import Delta
from mlx_server_nano.types import GenerationRequest, TextPrompt
from tests.models import fake_worker
from tests.models.folders import write_sparse

GIB = 1 << 30


class Bench:
    """A manager over models that the fake worker serves, by the names of their folders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.start_file = folder / "start"
        self.start_file.write_text("ready")
        self.manager: Manager

    def model(self, name: str, script: str = "ok", *, weights_bytes: int = 1000) -> Path:
        folder = write_sparse(self.folder / name, weights_bytes)
        (folder / "script").write_text(script)
        return folder

    @asynccontextmanager
    async def managed(self, *names: str, **settings: Any) -> AsyncIterator[Manager]:
        settings = {"max_memory": GIB, "spare_worker": False, **settings}
        configured = Settings(**settings)
        catalog = Catalog(
            cache_dir=self.folder / "cache",
            built_in={name: self.folder / name for name in names},
            aliases=configured.alias,
            tables=configured.models,
        )
        command = [sys.executable, "-P", fake_worker.__file__, "--log", self.log, "--start-file", self.start_file]
        self.manager = Manager(configured, catalog, command=[str(part) for part in command])
        await self.manager.start()
        try:
            yield self.manager
        finally:
            await self.manager.close()

    def notes(self, word: str) -> list[str]:
        """What the workers have noted that begins with a word, without their process ids."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [note for line in lines if (note := line.split(" ", 1)[1]).startswith(word)]

    def states(self) -> dict[str, ModelState]:
        return {status.id: status.state for status in self.manager.status()}

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not true():
                await asyncio.sleep(0.01)

    async def use(self, name: str, prompt: str = "count 2") -> str:
        async with self.manager.lease(name) as lease:
            return await read(start(lease, prompt))


def start(lease: Lease, prompt: str, n: int = 1) -> Generation:
    return lease.generate(GenerationRequest(prompt=TextPrompt(text=prompt), n=n))


async def read(generation: Generation) -> str:
    text = ""
    while not generation.finished:
        for event in await generation.next():
            text += event.text if isinstance(event, Delta) else ""
    return text
