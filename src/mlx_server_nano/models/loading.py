"""What a worker is told to load, and how the gateway then reads and writes its text."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_server_nano.config import Settings
from mlx_server_nano.models import adapters
from mlx_server_nano.models.folder import weights_bytes
from mlx_server_nano.models.names import ModelRef
from mlx_server_nano.protocol import LoadOptions
from mlx_server_nano.types import ModelInfo

if TYPE_CHECKING:
    from mlx_server_nano.chat.model import ChatModel


@dataclass(frozen=True, slots=True)
class DraftFiles:
    """The folder of a model that drafts for another. trusted: its own code may run, whatever holds for the other's."""

    folder: Path
    trusted: bool


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The folders of a model, of its adapter and of the model that drafts for it, if it has them."""

    model: Path
    adapter: Path | None
    draft: DraftFiles | None

    def weights_bytes(self) -> int:
        own = weights_bytes(self.model) + (weights_bytes(self.draft.folder) if self.draft else 0)
        return own + (adapters.weights_bytes(self.adapter) if self.adapter else 0)


def load_options(settings: Settings, ref: ModelRef, files: ModelFiles, *, trusted: bool) -> LoadOptions:
    """trusted: the model's own code may run."""
    loading = ref.options.loading
    directory = settings.prefix_cache_dir
    return LoadOptions(
        log_name=ref.name,
        adapter=None if files.adapter is None else str(files.adapter),
        context_length=loading.context_length,
        max_rows=settings.max_batch_size,
        prefill_chunk=settings.prefill_chunk,
        busy_prefill_chunk=settings.busy_prefill_chunk,
        trust_remote_code=trusted,
        prefix_cache_bytes=settings.prefix_cache_memory,
        speculation=settings.speculation,
        kv_bits=loading.kv_bits or settings.kv_bits,
        draft_folder=None if files.draft is None else str(files.draft.folder),
        draft_trust_remote_code=files.draft is not None and files.draft.trusted,
        draft_required=loading.draft_model is not None,
        prefix_cache_dir=None if directory is None else str(directory),
        prefix_cache_disk=settings.prefix_cache_disk,
    )


def chat_model(settings: Settings, ref: ModelRef, info: ModelInfo) -> ChatModel:
    """For a model that is loaded. Takes long enough to be called in a thread."""
    # Imports Jinja, which a gateway that only listens does not need.
    from mlx_server_nano.chat.model import ChatModel

    return ChatModel(info, next((name for pattern, name in settings.tool_format if fnmatchcase(ref.id, pattern)), None))
