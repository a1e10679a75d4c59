"""GET /health, and GET / for people and for clients that probe it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mlx_server_nano import __version__
from mlx_server_nano.api.gate import Gate

if TYPE_CHECKING:
    from mlx_server_nano.models.manager import Manager


class Health:
    """200 only while requests can be served; 503 while draining or when no worker can start."""

    def __init__(self, manager: Manager, gate: Gate) -> None:
        self._manager = manager
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body: dict[str, object] = {"status": "healthy"}
        if self._gate.draining:
            body = {"status": "draining", "reason": "The server is shutting down."}
        elif self._manager.problem is not None:
            body = {"status": "unhealthy", "reason": self._manager.problem}
        status = 200 if body["status"] == "healthy" else 503
        body["models"] = [
            {"id": model.id, "state": model.state, "running": model.running, "memory_bytes": model.memory_bytes}
            for model in self._manager.status()
        ]
        await Response(msgspec.json.encode(body), status_code=status, media_type="application/json")(
            scope, receive, send
        )


async def welcome(scope: Scope, receive: Receive, send: Send) -> None:
    body = {
        "name": "mlx-server-nano",
        "version": __version__,
        "endpoints": [
            "/v1/chat/completions",
            "/v1/completions",
            "/v1/embeddings",
            "/v1/responses",
            "/v1/messages",
            "/v1/models",
            "/health",
        ],
    }
    await Response(msgspec.json.encode(body), media_type="application/json")(scope, receive, send)
