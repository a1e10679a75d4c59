"""Every request's record, its line in the log and its place in the metrics, as plain ASGI."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Final

from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_server_nano.api.metrics import METRICS_PATH, Metrics
from mlx_server_nano.api.middleware import HEALTH_PATH
from mlx_server_nano.api.record import Record

# Machines ask for these every few seconds.
_QUIET: Final = frozenset({HEALTH_PATH, METRICS_PATH})
_UNMATCHED: Final = "unmatched"
_CLIENT_GONE: Final = 499  # as nginx writes it: there was nobody left to answer

logger = logging.getLogger("mlx_server_nano.access")


class Observe:
    """Must be inside of RequestIds and outside of all that answers. Clients can't make up routes: what matches none counts as
    unmatched."""

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: Iterable[Route]) -> None:
        self._app = app
        self._metrics = metrics
        self._routes = list(routes)
        self._patterns = {id(route.endpoint): route.path for route in self._routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        record = scope["state"]["record"] = Record(self._metrics)

        async def watch(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            seconds = time.perf_counter() - record.began_at
            route = self._route(scope)
            code = record.status or (_CLIENT_GONE if record.gone else 500)
            self._metrics.answered(route, code, seconds)
            level = logging.DEBUG if route in _QUIET else logging.INFO
            if logger.isEnabledFor(level):
                fields = _fields(scope, record, route, code, seconds)
                told = " ".join(f"{name}={value}" for name, value in fields.items())
                logger.log(level, "%s", told, extra={"fields": fields})
        return None

    def _route(self, scope: Scope) -> str:
        """The pattern: the router's answer, but a request that was refused has not been through it."""
        if (found := self._patterns.get(id(scope.get("endpoint")))) is not None:
            return found
        return next((r.path for r in self._routes if r.matches(scope)[0] is not Match.NONE), _UNMATCHED)


def _fields(scope: Scope, record: Record, route: str, code: int, seconds: float) -> dict[str, object]:
    """What there is to tell; times in seconds."""
    waited = record.started_at - record.sent_at if record.started_at and record.sent_at else None
    first = record.first_token_at - record.began_at if record.first_token_at else None
    rate = record.tokens_per_second
    served = record.started_at is not None or record.prompt_tokens > 0
    fields: dict[str, object | None] = {
        "method": scope["method"],
        "route": route,
        "code": code,
        "request_id": scope["state"]["request_id"],
        "model": record.model,
        "prompt_tokens": record.prompt_tokens if served else None,
        "cached_tokens": record.cached_tokens if served else None,
        "completion_tokens": record.completion_tokens if served else None,
        "queue": _rounded(waited),
        "first_token": _rounded(first),
        "total": _rounded(seconds),
        "tokens_per_second": None if rate is None else round(rate, 1),
        "error": record.error,
        "client_gone": True if record.gone else None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
