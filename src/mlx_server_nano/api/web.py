"""The web page: GET / for browsers, and GET /web/{name} for the files that it is made of.

The files lie in the package's folder `web` as they are sent. They are the same on every server, so they need no key; the page
asks its user for one and sends it with its own requests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mlx_server_nano.api.status import welcome
from mlx_server_nano.errors import NotFoundError

WEB_PATH: Final = "/web/"
_FOLDER: Final = Path(__file__).parents[1] / "web"
_PAGE: Final = "index.html"
_KINDS: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Nothing but the server's own files, no inline scripts or styles, no HTML made of text, and no frame around it.
_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    headers: Mapping[str, str]
    etag: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """304 if the client has it (RFC 9110, 13.1.2)."""
        known = Headers(scope=scope).get("if-none-match", "")
        if self.etag in [tag.strip().removeprefix("W/") for tag in known.split(",")]:
            return await Response(status_code=304, headers=self.headers)(scope, receive, send)
        return await Response(self.body, headers=self.headers)(scope, receive, send)


class WebPage:
    @cached_property
    def _files(self) -> Mapping[str, _File]:
        return {path.name: _read(path) for path in _FOLDER.iterdir() if path.suffix in _KINDS}

    async def page(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The page for those who ask for HTML, as browsers do; else the server's name and endpoints."""
        answer = self._files[_PAGE] if _wants_html(Headers(scope=scope).get("accept", "")) else welcome
        await answer(scope, receive, send)

    async def file(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises NotFoundError."""
        name = scope["path_params"]["name"]
        if name not in self._files or name == _PAGE:
            raise NotFoundError(f"There is no {WEB_PATH}{name}.")
        await self._files[name](scope, receive, send)


def _read(path: Path) -> _File:
    body = path.read_bytes()
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {
        "content-type": _KINDS[path.suffix],
        "etag": etag,
        "cache-control": "no-cache",  # which means: ask whether it is still the same
        "content-security-policy": _POLICY,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
    }
    if path.name == _PAGE:
        headers["vary"] = "accept"
    return _File(body, headers, etag)


def _wants_html(accept: str) -> bool:
    return any(part.partition(";")[0].strip().lower() == "text/html" for part in accept.split(","))
