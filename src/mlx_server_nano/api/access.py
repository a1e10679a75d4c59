"""Who may use the server: whoever has a key, and no web pages but those that the operator allows. Plain ASGI."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import socket
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mlx_server_nano.api.middleware import DOCS_PATH, HEALTH_PATH
from mlx_server_nano.api.web import WEB_PATH
from mlx_server_nano.config import Settings
from mlx_server_nano.errors import AuthenticationError, HostNotAllowedError, OriginNotAllowedError

# Static pages, the same on every server. A page that needs more asks its user for a key.
_PAGES: Final = frozenset({"/", DOCS_PATH})

# RFC 9110, 7.2: a name or an address in brackets, and a port.
_HOST: Final = re.compile(r"(?:\[(?P<address>[0-9a-f:.]+)\]|(?P<name>[^:\[\]]+?)\.?)(?::\d*)?")


class ApiKeys:
    """Wants one of the keys, as a bearer token or as `x-api-key`, everywhere but at /health and for the static pages. Raises
    AuthenticationError."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._digests = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_open(scope):
            self._check(Headers(scope=scope))
        await self._app(scope, receive, send)

    def _check(self, headers: Headers) -> None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        bearer = token.strip() if scheme.lower() == "bearer" else ""
        given = [key for key in (bearer, headers.get("x-api-key", "")) if key]
        if not given:
            raise AuthenticationError("An API key is needed: send `Authorization: Bearer KEY`.")
        # Every pair is compared, and digests are of one length: the time tells nothing of any key.
        digests = [_digest(key.encode("latin-1")) for key in given]
        if not any([hmac.compare_digest(ours, theirs) for ours in self._digests for theirs in digests]):  # noqa: C419
            raise AuthenticationError("The API key is wrong.")


class WebPages:
    """Keeps web pages from driving the server from their visitors' browsers.

    A request with an `Origin` must come from one in `--cors-origin`, or from the server's own pages. Against a foreign name
    that was pointed at this machine (DNS rebinding), which makes a page look like one of the server's own: a connection over
    loopback must call the server by a name of its own, and so must a page unless keys protect the server.

    Raises HostNotAllowedError and OriginNotAllowedError.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._origins = frozenset(settings.cors_origin)
        own = socket.gethostname().lower()
        self._names = ("localhost", "*.localhost", own, f"{own.partition('.')[0]}.local", *settings.allowed_host)
        self._has_keys = bool(settings.keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._check(Headers(scope=scope), over_loopback=_is_loopback(scope.get("server")))
        await self._app(scope, receive, send)

    def _check(self, headers: Headers, *, over_loopback: bool) -> None:
        host = headers.get("host", "").lower()
        known = self._knows(host, over_loopback=over_loopback)
        if over_loopback and host and not known:
            raise HostNotAllowedError(f"This server does not go by the name {host}: --allowed-host adds names.")
        origin = headers.get("origin")
        if origin is None or origin in self._origins or "*" in self._origins:
            return
        if origin.lower().partition("://")[2] != host:
            raise OriginNotAllowedError(f"Web pages of {origin} may not use this server: --cors-origin allows them.")
        if not known and not self._has_keys:
            raise OriginNotAllowedError(
                f"Web pages under the name {host} may not use this server: --allowed-host adds it."
            )

    def _knows(self, host: str, *, over_loopback: bool) -> bool:
        """Whether nobody else can have made this name point here. An address is no name; but over loopback, only loopback's
        (and 0.0.0.0, which some write for it) are this server's own."""
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = found["address"] or found["name"]
        if any(fnmatchcase(name, pattern) for pattern in self._names):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return not over_loopback or address.is_loopback or address.is_unspecified


def _is_open(scope: Scope) -> bool:
    path = scope["path"]
    is_page = path in _PAGES or path.startswith(WEB_PATH)
    return path == HEALTH_PATH or (is_page and scope["method"] in ("GET", "HEAD"))


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _is_loopback(server: tuple[str, int | None] | None) -> bool:
    """Whether the connection came to an address of loopback."""
    try:
        address = ipaddress.ip_address(server[0] if server is not None else "")
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
