"""GET /v1/models and GET /v1/models/{id}."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace
from starlette.types import Receive, Scope, Send

from mlx_server_nano.api.answer import json_response
from mlx_server_nano.errors import ModelNotFoundError, UnsupportedModelError
from mlx_server_nano.models.catalog import AvailableModel
from mlx_server_nano.models.names import ModelKind, ModelRef

if TYPE_CHECKING:
    from mlx_server_nano.models.catalog import Catalog
    from mlx_server_nano.models.manager import Manager


class Model(Struct, tag_field="object", tag="model"):
    """created: in Unix seconds. alias_of: what an alias stands for."""

    id: str
    created: int
    owned_by: str
    alias_of: str | UnsetType = UNSET


class ModelList(Struct, tag_field="object", tag="list"):
    data: list[Model]


class ModelEndpoints:
    """The catalog reads the disk, so it is asked in a thread."""

    def __init__(self, manager: Manager, catalog: Catalog) -> None:
        self._manager = manager
        self._catalog = catalog

    async def list(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What is usable without a download: the catalog, and what is loaded from elsewhere."""
        available = await asyncio.to_thread(self._catalog.available)
        models = {model.alias or model.ref.id: _to_wire(model) for model in available}
        for status in self._manager.status():
            if status.loaded_since is not None and status.id not in models:
                # The catalog lists all but the folders that clients name.
                local = ModelRef(status.id, ModelKind.LOCAL, None)
                models[status.id] = _to_wire(AvailableModel(local, int(status.loaded_since)))
        await json_response(ModelList(data=list(models.values())))(scope, receive, send)

    async def retrieve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Any name that a request may use will do. Raises ModelNotFoundError."""
        model = await asyncio.to_thread(self._find, scope["path_params"]["name"])
        await json_response(model)(scope, receive, send)

    def _find(self, name: str) -> Model:
        try:
            return _to_wire(self._catalog.find(name))
        except (ModelNotFoundError, UnsupportedModelError) as error:
            raise ModelNotFoundError(error.message, param="model") from None


def _to_wire(model: AvailableModel) -> Model:
    ref = model.ref
    owner = ref.id.partition("/")[0] if ref.kind is ModelKind.HUB else ref.kind.value
    wire = Model(id=ref.id, created=model.created, owned_by=owner)
    return wire if model.alias is None else replace(wire, id=model.alias, alias_of=ref.id)
