"""GET /v1/models and GET /v1/models/{id}."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mlx_server_nano.errors import ModelNotFoundError, UnsupportedModelError
from mlx_server_nano.models.names import ModelKind, ModelRef

if TYPE_CHECKING:
    from mlx_server_nano.models.catalog import Catalog
    from mlx_server_nano.models.manager import Manager


class ModelEndpoints:
    """The catalog reads the disk, so it is asked in a thread."""

    def __init__(self, manager: Manager, catalog: Catalog) -> None:
        self._manager = manager
        self._catalog = catalog

    async def list(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What is usable without a download: the catalog, and what is loaded from elsewhere."""
        available = await asyncio.to_thread(self._catalog.available)
        models = {model.ref.id: _to_wire(model.ref, model.created) for model in available}
        for status in self._manager.status():
            if status.loaded_since is not None and status.id not in models:
                # The catalog lists all but the folders that clients name.
                local = ModelRef(status.id, ModelKind.LOCAL, None)
                models[status.id] = _to_wire(local, int(status.loaded_since))
        await _json({"object": "list", "data": list(models.values())})(scope, receive, send)

    async def retrieve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Any name that a request may use will do. Raises ModelNotFoundError."""
        model = await asyncio.to_thread(self._find, scope["path_params"]["name"])
        await _json(model)(scope, receive, send)

    def _find(self, name: str) -> dict[str, object]:
        try:
            ref = self._catalog.resolve(name)
        except (ModelNotFoundError, UnsupportedModelError) as error:
            raise ModelNotFoundError(error.message, param="model") from None
        if ref.folder is None:
            raise ModelNotFoundError(f"The model {name!r} is not on this machine.", param="model")
        return _to_wire(ref, int(ref.folder.stat().st_mtime))


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def _to_wire(ref: ModelRef, created: int) -> dict[str, object]:
    """created: in Unix seconds."""
    owner = ref.id.partition("/")[0] if ref.kind is ModelKind.HUB else ref.kind.value
    return {"id": ref.id, "object": "model", "created": created, "owned_by": owner}
