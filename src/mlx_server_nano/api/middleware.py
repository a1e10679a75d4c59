"""What every request passes through, as plain ASGI: an id, errors in their dialect's shape, the drain gate."""

from __future__ import annotations

import re
import secrets
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_server_nano.api.envelope import anthropic_error, anthropic_status, as_server_error, is_anthropic, openai_error
from mlx_server_nano.api.gate import ClientGoneError, Gate
from mlx_server_nano.api.record import Record
from mlx_server_nano.api.routing import NotAllowedHereError
from mlx_server_nano.errors import AuthenticationError, ServerError

HEALTH_PATH: Final = "/health"
DOCS_PATH: Final = "/docs"
_REQUEST_ID: Final = re.compile(r"[!-~]{1,128}")


class RequestIds:
    """Answers with the client's `x-request-id`, or one of ours, as `request-id` too where Anthropic's clients look for it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(16)}"
        scope.setdefault("state", {})["request_id"] = request_id
        names = (b"x-request-id", b"request-id") if _speaks_anthropic(scope) else (b"x-request-id",)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                ids = [(name, request_id.encode()) for name in names]
                message["headers"] = [*message.get("headers", ()), *ids]
            await send(message)

        return await self._app(scope, receive, send_with_id)


class Errors:
    """Turns what the inner app raises into a response, unless one has begun."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except ClientGoneError:
            Record.of(scope).gone = True
        except Exception as error:
            if started:
                raise
            failure = as_server_error(error)
            Record.of(scope).fail(failure)
            await _response(scope, failure)(scope, receive, send)
        return None


def _response(scope: Scope, error: ServerError) -> Response:
    if _speaks_anthropic(scope):
        body, status = anthropic_error(error, scope["state"]["request_id"]), anthropic_status(type(error))
    else:
        body, status = openai_error(error), error.status
    response = Response(body, status_code=status, media_type="application/json")
    if error.retry_after is not None:
        response.headers["retry-after"] = str(error.retry_after)
    if isinstance(error, NotAllowedHereError):
        response.headers["allow"] = ", ".join(error.allowed)
    if isinstance(error, AuthenticationError):
        response.headers["www-authenticate"] = "Bearer"
    return response


def _speaks_anthropic(scope: Scope) -> bool:
    """By the path, or by a header that all of Anthropic's clients send: they list models too."""
    return is_anthropic(scope["path"]) or "anthropic-version" in Headers(scope=scope)


class Draining:
    """Turns new requests away while the server stops, but for /health. Raises UnavailableError."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != HEALTH_PATH:
            self._gate.check()
        await self._app(scope, receive, send)
