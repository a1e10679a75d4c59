"""A manager and a catalog that follow scripts instead of running models."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_server_nano.chat.model import ChatModel
from mlx_server_nano.config.models import RequestDefaults
from mlx_server_nano.errors import ModelInUseError, ModelNotFoundError, UnsupportedModelError
from mlx_server_nano.models.catalog import AvailableModel
from mlx_server_nano.models.counts import ModelCounts
from mlx_server_nano.models.names import ModelKind, ModelRef
from mlx_server_nano.models.slot import ModelState, ModelStatus
from mlx_server_nano.protocol import Answer, Delta, Device, Event, Measured, Started
from mlx_server_nano.types import FinishReason, GenerationRequest, Measure, ModelInfo


class Forever:
    """In a script: nothing comes any more."""


# What happens next: events, an error, silence until something is set, or for good.
Beat = list[Event] | Exception | threading.Event | type[Forever]


def started(prompt_tokens: int = 7, cached_tokens: int = 3) -> list[Event]:
    return [Started(0, prompt_tokens, cached_tokens, "")]


def text(*pieces: str, choice: int = 0, finish: FinishReason | None = FinishReason.STOP) -> list[Beat]:
    """One beat for each piece, the last with the finish reason."""
    last = len(pieces) - 1
    return [[Delta(0, choice, piece, 1, finish=finish if i == last else None)] for i, piece in enumerate(pieces)]


def echo(request: GenerationRequest | Measure) -> list[Beat]:
    if isinstance(request, Measure):
        return [[Measured(0, 7)]]
    return [
        started(),
        *(beat for choice in range(request.n) for beat in text("Hel", "lo", choice=request.first_choice + choice)),
    ]


@dataclass
class Script:
    """What a model does: `opening` while its lease is waited for, `play` for each request, `refusal` from `generate`."""

    play: Callable[[GenerationRequest], list[Beat]] = echo
    opening: list[Beat] = field(default_factory=list)
    refusal: Exception | None = None
    template: str = "{% for message in messages %}{{ message.role }}: {{ message.content }}{% endfor %}"
    special_tokens: dict[str, int] = field(default_factory=dict)


async def perform(beat: Beat) -> list[Event]:
    if isinstance(beat, list):
        return beat
    if isinstance(beat, Exception):
        raise beat
    while not (isinstance(beat, threading.Event) and beat.is_set()):
        await asyncio.sleep(0.005)
    return []


class FakeGeneration:
    def __init__(self, manager: FakeManager, requests: tuple[GenerationRequest, ...], beats: list[Beat]) -> None:
        self._manager = manager
        self._beats: Iterator[Beat] = iter(beats)
        self._open = sum(request.n for request in requests)
        self._requests = requests

    @property
    def finished(self) -> bool:
        return self._open == 0

    async def next(self, timeout: float | None = None) -> list[Event]:
        await asyncio.sleep(0)  # as a worker's events come from the loop
        events = await perform(next(self._beats))
        self._open -= sum(
            event.finish is not None if isinstance(event, Delta) else isinstance(event, Answer) for event in events
        )
        return events

    def cancel(self) -> None:
        if not self.finished:
            self._manager.cancelled.extend(self._requests)


def model_info(template: str, special_tokens: dict[str, int] | None = None) -> ModelInfo:
    return ModelInfo(
        model_type="fake",
        context_length=100,
        vocab_size=10,
        weights_bytes=1,
        chat_template=template,
        chats=True,
        special_tokens=special_tokens or {},
        batchable=True,
    )


def chat_model(template: str) -> ChatModel:
    return ChatModel(model_info(template))


class FakeLease:
    def __init__(self, manager: FakeManager, name: str, script: Script) -> None:
        self.model_id = name
        self.info = model_info(script.template, script.special_tokens)
        self.chat = ChatModel(self.info)
        self.defaults = RequestDefaults()
        self._manager = manager
        self._script = script

    def generate(self, *requests: GenerationRequest) -> FakeGeneration:
        self._manager.requests.extend(requests)
        if self._script.refusal is not None:
            raise self._script.refusal
        beats = [beat for request in requests for beat in self._script.play(request)]
        return FakeGeneration(self._manager, requests, beats)


def status(name: str, state: ModelState = ModelState.READY, loaded_since: float | None = 1700000001.5) -> ModelStatus:
    return ModelStatus(
        id=name,
        state=state,
        progress=1.0,
        running=1,
        waiting=0,
        memory_bytes=1000,
        kv_bytes=300,
        prefix_cache_bytes=200,
        idle_seconds_left=None,
        loaded_since=loaded_since,
        pinned=False,
        context_length=None if loaded_since is None else 100,
    )


class FakeManager:
    def __init__(self) -> None:
        self.running = False
        self.renew()

    def renew(self) -> None:
        """As if nothing had been asked of it yet."""
        self.scripts = {"m": Script()}
        self.requests: list[Any] = []
        self.cancelled: list[GenerationRequest] = []
        self.waiting = 0  # for a lease
        self.leases = 0
        self.problem: str | None = None
        self.memory_limit = 5000
        self.memory_in_use = 3000
        self.device: Device | None = None
        self.worker_starts = 2
        self.counts = {"org/model": ModelCounts(1, 2.5, 1, 20, 15)}

    async def start(self) -> None:
        self.running = True

    async def close(self) -> None:
        self.running = False

    def status(self) -> list[ModelStatus]:
        return [
            status("org/model"),
            status("/models/local"),
            status("org/coming", ModelState.LOADING, loaded_since=None),
        ]

    async def load(self, name: str) -> AsyncIterator[ModelStatus]:
        script = self._script(name)
        yield status(name, ModelState.DOWNLOADING, None)
        for beat in script.opening:
            await perform(beat)
            yield status(name, ModelState.LOADING, None)
        yield status(name)

    async def unload(self, name: str, *, force: bool = False) -> str:
        self._script(name)
        if not force:
            raise ModelInUseError(f"{name} is in use.", param="model")
        return name

    def _script(self, name: str) -> Script:
        if name not in self.scripts:
            raise ModelNotFoundError(f"The model {name!r} does not exist.", param="model")
        return self.scripts[name]

    @asynccontextmanager
    async def lease(self, name: str) -> AsyncIterator[FakeLease]:
        script = self._script(name)
        self.waiting += 1
        try:
            for beat in script.opening:
                await perform(beat)
        finally:
            self.waiting -= 1
        self.leases += 1
        try:
            yield FakeLease(self, name, script)
        finally:
            self.leases -= 1


class FakeCatalog:
    """One model in the cache, its alias, and one folder, which is there but not listed."""

    def __init__(self, folder: Path) -> None:
        os.utime(folder, (1700000000, 1700000000))
        self._known = {"org/model": folder, "/models/local": folder, "org/elsewhere": None}

    def available(self) -> list[AvailableModel]:
        return [self.find("org/model"), self.find("alias")]

    def find(self, name: str) -> AvailableModel:
        ref = self.resolve(name)
        if ref.folder is None:
            raise ModelNotFoundError(f"{name} must be downloaded.")
        return AvailableModel(ref, 1700000000 + (name == "alias"), "alias" if name == "alias" else None)

    def resolve(self, name: str) -> ModelRef:
        name = "org/model" if name == "alias" else name
        if name == "org/unsupported":
            raise UnsupportedModelError("It is a picture.")
        if name not in self._known:
            raise ModelNotFoundError(f"{name} is nowhere.")
        kind = ModelKind.LOCAL if name.startswith("/") else ModelKind.HUB
        return ModelRef(name, kind, self._known[name])
