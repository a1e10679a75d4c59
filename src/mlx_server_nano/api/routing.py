"""Paths and methods, with errors instead of starlette's plain texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from mlx_server_nano.errors import MethodNotAllowedError, NotFoundError


class NotAllowedHereError(MethodNotAllowedError):
    """`allowed` becomes the Allow header."""

    def __init__(self, method: str, path: str, allowed: Iterable[str]) -> None:
        self.allowed = tuple(allowed)
        super().__init__(f"{method} is not allowed for {path}: use {' or '.join(self.allowed)}.")


class Methods:
    """One path's endpoints by method. HEAD is answered as GET, whose body the HTTP server leaves out."""

    def __init__(self, endpoints: Mapping[str, ASGIApp]) -> None:
        self._endpoints = dict(endpoints)
        if "GET" in self._endpoints:
            self._endpoints["HEAD"] = self._endpoints["GET"]

    @property
    def methods(self) -> frozenset[str]:
        return frozenset(self._endpoints)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get(scope["method"])
        if endpoint is None:
            raise NotAllowedHereError(scope["method"], scope["path"], self._endpoints)
        await endpoint(scope, receive, send)


async def unknown_path(scope: Scope, receive: Receive, send: Send) -> None:
    """Raises NotFoundError."""
    raise NotFoundError(f"Unknown path: {scope['method']} {scope['path']}")
