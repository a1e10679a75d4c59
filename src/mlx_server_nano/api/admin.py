"""GET /admin/status, POST /admin/load and POST /admin/unload: what commands and web pages look after the models with."""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta, Struct
from starlette.types import Receive, Scope, Send

from mlx_server_nano import __version__
from mlx_server_nano.api.answer import json_response
from mlx_server_nano.api.body import read_json_body
from mlx_server_nano.api.envelope import openai_error
from mlx_server_nano.api.gate import Gate
from mlx_server_nano.api.metrics import Metrics
from mlx_server_nano.api.run import run_stream
from mlx_server_nano.api.sse import COMMENT, EventStream
from mlx_server_nano.api.status import Health, HealthState
from mlx_server_nano.api.wire import decode_json
from mlx_server_nano.config import Settings
from mlx_server_nano.errors import ServerError
from mlx_server_nano.models.slot import ModelState

if TYPE_CHECKING:
    from mlx_server_nano.models.manager import Manager
    from mlx_server_nano.models.slot import ModelStatus


class ModelReport(Struct):
    """progress: of the download or the load, 0 to 1. running: requests that the model works on; waiting: those that it has not
    begun with. memory_bytes: what it takes, or is reckoned to take if that is more; kv_bytes and prefix_cache_bytes: the KV
    caches of running requests in it, and those kept for later ones. idle_seconds_left: until it is unloaded; null while it is
    in use, or if it never will be. loaded_since: in Unix seconds. context_length: in tokens; both are null until it is loaded.
    prompt_tokens, cached_tokens, generated_tokens: since the server started."""

    id: str
    state: ModelState
    progress: float
    running: int
    waiting: int
    memory_bytes: int
    kv_bytes: int
    prefix_cache_bytes: int
    pinned: bool
    context_length: int | None
    idle_seconds_left: float | None
    loaded_since: float | None
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int


class MemoryReport(Struct):
    """Of all models together, in bytes."""

    limit_bytes: int
    used_bytes: int


class StatusReport(Struct):
    """reason: why the status is not healthy. device: what models run on, null until a worker process has told."""

    version: str
    uptime_seconds: float
    status: HealthState
    reason: str | None
    device: str | None
    memory: MemoryReport
    models: list[ModelReport]


ModelName = Annotated[str, Meta(min_length=1)]


class LoadBody(Struct, forbid_unknown_fields=True):
    """A model by any name that a request may use. It is downloaded first if need be."""

    model: ModelName


class LoadEvent(Struct):
    """How far a model is that is being loaded."""

    model: str
    state: ModelState
    progress: float


class UnloadBody(Struct, forbid_unknown_fields=True):
    """force: also a model that is pinned or in use, whose requests then end with an error."""

    model: ModelName
    force: bool = False


class Unloaded(Struct):
    """The model's memory is free again."""

    model: str
    unloaded: bool = True


_LOAD: Final = msgspec.json.Decoder(LoadBody)
_UNLOAD: Final = msgspec.json.Decoder(UnloadBody)


class Admin:
    def __init__(self, settings: Settings, manager: Manager, gate: Gate, health: Health, metrics: Metrics) -> None:
        self._settings = settings
        self._manager = manager
        self._gate = gate
        self._health = health
        self._metrics = metrics
        self._started = time.monotonic()

    async def status(self, scope: Scope, receive: Receive, send: Send) -> None:
        health = self._health.report()
        device = self._manager.device
        report = StatusReport(
            version=__version__,
            uptime_seconds=round(time.monotonic() - self._started, 3),
            status=health.status,
            reason=health.reason,
            device=None if device is None else device.name,
            memory=MemoryReport(self._manager.memory_limit, self._manager.memory_in_use),
            models=[self._report(model) for model in self._manager.status()],
        )
        await json_response(report)(scope, receive, send)

    def _report(self, model: ModelStatus) -> ModelReport:
        prompt, cached, generated = self._metrics.tokens(model.id)
        return ModelReport(
            id=model.id,
            state=model.state,
            progress=model.progress,
            running=model.running - model.waiting,
            waiting=model.waiting,
            memory_bytes=model.memory_bytes,
            kv_bytes=model.kv_bytes,
            prefix_cache_bytes=model.prefix_cache_bytes,
            pinned=model.pinned,
            context_length=model.context_length,
            idle_seconds_left=model.idle_seconds_left,
            loaded_since=model.loaded_since,
            prompt_tokens=prompt,
            cached_tokens=cached,
            generated_tokens=generated,
        )

    async def load(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Events until the model is ready. The load goes on when the client leaves."""
        with self._gate.admit() as interrupt:
            with interrupt:
                body = await read_json_body(scope, receive, self._settings.max_body)
            name = decode_json(_LOAD, body).model
            stream = EventStream(send, self._settings.keepalive_interval, lambda: COMMENT)
            await run_stream(scope, receive, interrupt, stream, self._tell(name, stream), end=bytes, fail=_failure)

    async def _tell(self, name: str, stream: EventStream) -> None:
        last = b""
        async with aclosing(self._manager.load(name)) as states:
            async for model in states:
                told = _event(msgspec.json.encode(LoadEvent(model.id, model.state, round(model.progress, 4))))
                if told != last:
                    await stream.write(told)
                last = told

    async def unload(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises ModelNotFoundError, ModelInUseError."""
        with self._gate.admit() as interrupt, interrupt:
            wire = decode_json(_UNLOAD, await read_json_body(scope, receive, self._settings.max_body))
            model = await self._manager.unload(wire.model, force=wire.force)
        await json_response(Unloaded(model))(scope, receive, send)


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


def _failure(error: ServerError) -> bytes:
    return _event(openai_error(error))
