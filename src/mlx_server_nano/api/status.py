"""GET /health, and GET / for clients that probe it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct
from starlette.types import Receive, Scope, Send

from mlx_server_nano import __version__
from mlx_server_nano.api.answer import json_response
from mlx_server_nano.api.gate import Gate
from mlx_server_nano.models.slot import ModelState

if TYPE_CHECKING:
    from mlx_server_nano.models.manager import Manager


class ModelHealth(Struct):
    """running: unfinished requests. memory_bytes: what it is reckoned to take, 0 until there is room for it."""

    id: str
    state: ModelState
    running: int
    memory_bytes: int


HealthState = Literal["healthy", "draining", "unhealthy"]


class HealthReport(Struct, omit_defaults=True):
    status: HealthState
    models: list[ModelHealth]
    reason: str | None = None


class Welcome(Struct):
    name: str
    version: str
    endpoints: list[str]


class Health:
    """200 only while requests can be served; 503 while draining or when no worker can start."""

    def __init__(self, manager: Manager, gate: Gate) -> None:
        self._manager = manager
        self._gate = gate

    def report(self) -> HealthReport:
        models = [
            ModelHealth(model.id, model.state, model.running, model.memory_bytes) for model in self._manager.status()
        ]
        if self._gate.draining:
            return HealthReport("draining", models, "The server is shutting down.")
        if self._manager.problem is not None:
            return HealthReport("unhealthy", models, self._manager.problem)
        return HealthReport("healthy", models)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        report = self.report()
        await json_response(report, 200 if report.status == "healthy" else 503)(scope, receive, send)


async def welcome(scope: Scope, receive: Receive, send: Send) -> None:
    body = Welcome(
        name="mlx-server-nano",
        version=__version__,
        endpoints=[
            "/v1/chat/completions",
            "/v1/completions",
            "/v1/embeddings",
            "/v1/responses",
            "/v1/messages",
            "/v1/models",
            "/health",
            "/docs",
        ],
    )
    response = json_response(body)
    response.headers["vary"] = "accept"  # browsers get a page
    await response(scope, receive, send)
