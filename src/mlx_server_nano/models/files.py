"""Where a model's files are, its adapter's, and those of the model that drafts for it: downloaded if need be."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mlx_server_nano.config import Settings
from mlx_server_nano.errors import ServerError
from mlx_server_nano.models import distributed
from mlx_server_nano.models.catalog import Catalog
from mlx_server_nano.models.download import download
from mlx_server_nano.models.fetch import Fetched
from mlx_server_nano.models.loading import DraftFiles
from mlx_server_nano.models.names import ModelRef

_log: Final = logging.getLogger(__name__)


class Files:
    """All methods raise what `download` and `Catalog.resolve` do."""

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self._settings = settings
        self._catalog = catalog

    async def fetch(self, model: str, on_progress: Callable[[int, int], None]) -> Fetched:
        """Download a model. `on_progress` gets the bytes that are there and those of the whole."""
        trusted = self._catalog.trusts(model)
        return await download(model, self._catalog.cache_dir, on_progress, trust_remote_code=trusted)

    async def adapter(self, ref: ModelRef) -> Path | None:
        """None: the model has none."""
        name = ref.options.loading.adapter
        if name is None:
            return None
        folder = await asyncio.to_thread(self._catalog.adapter, name)
        if folder is None:
            fetched = await download(name, self._catalog.cache_dir, lambda done, total: None, adapter=True)
            folder = Path(fetched.folder)
        return folder

    async def draft(self, ref: ModelRef, on_progress: Callable[[float], None]) -> DraftFiles | None:
        """None: no model drafts for this one. One that is meant for all models must be there for none of them."""
        own = ref.options.loading.draft_model
        name = own or self._settings.draft_model
        if name is None or not self._settings.speculation or distributed.ranks_of(ref, self._settings) > 1:
            return None
        try:
            return await self._draft(name, ref, on_progress)
        except ServerError as error:
            if own is not None:
                raise
            _log.warning("No draft model for %s: %s", ref.name, error)
            return None

    async def _draft(self, name: str, ref: ModelRef, on_progress: Callable[[float], None]) -> DraftFiles | None:
        draft = await asyncio.to_thread(self._catalog.resolve, name)
        if draft.id == ref.id:
            return None
        if draft.folder is not None:
            return DraftFiles(draft.folder, self._catalog.trusts(draft.id))
        fetched = await self.fetch(draft.id, lambda done, total: on_progress(done / total if total else 0.0))
        return DraftFiles(Path(fetched.folder), self._catalog.trusts(fetched.repository))
