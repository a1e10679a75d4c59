"""GET /openapi.json and GET /docs. Both are made at the first request and say nothing of this server's models or settings."""

from __future__ import annotations

from functools import cached_property
from typing import Final

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mlx_server_nano.api.openapi.document import build_document
from mlx_server_nano.api.openapi.page import build_page

# The page has styles of its own, and needs nothing else.
_PAGE_HEADERS: Final = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}


class Description:
    @cached_property
    def _document(self) -> bytes:
        return msgspec.json.encode(build_document())

    @cached_property
    def _page(self) -> bytes:
        return build_page(build_document()).encode()

    async def document(self, scope: Scope, receive: Receive, send: Send) -> None:
        await Response(self._document, media_type="application/json")(scope, receive, send)

    async def page(self, scope: Scope, receive: Receive, send: Send) -> None:
        await Response(self._page, media_type="text/html", headers=_PAGE_HEADERS)(scope, receive, send)
