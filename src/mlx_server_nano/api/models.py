"""GET /v1/models and GET /v1/models/{id}."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mlx_server_nano.errors import ModelNotFoundError

if TYPE_CHECKING:
    from mlx_server_nano.models.catalog import Catalog, CatalogEntry
    from mlx_server_nano.models.manager import Manager


class ModelEndpoints:
    """The catalog reads the disk, so it is asked in a thread."""

    def __init__(self, manager: Manager, catalog: Catalog) -> None:
        self._manager = manager
        self._catalog = catalog

    async def list(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What is usable without a download: the catalog, and what is loaded from elsewhere."""
        loaded = [model.id for model in self._manager.status()]
        entries = await asyncio.to_thread(self._entries, loaded)
        await _json({"object": "list", "data": [_to_wire(entry) for entry in entries]})(scope, receive, send)

    def _entries(self, loaded: Iterable[str]) -> Sequence[CatalogEntry]:
        entries = {entry.id: entry for entry in self._catalog.list()}
        for name in loaded:
            if name not in entries and (entry := self._catalog.get(name)) is not None:
                entries[name] = entry
        return list(entries.values())

    async def retrieve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises ModelNotFoundError."""
        name: str = scope["path_params"]["name"]
        entry = await asyncio.to_thread(self._catalog.get, name)
        if entry is None:
            raise ModelNotFoundError(f"The model {name!r} is not on this machine.", param="model")
        await _json(_to_wire(entry))(scope, receive, send)


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def _to_wire(entry: CatalogEntry) -> dict[str, object]:
    return {"id": entry.id, "object": "model", "created": int(entry.created), "owned_by": entry.owner}
