"""The one place that touches os.environ. It is written for huggingface_hub and the worker processes alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from mlx_server_nano.config.settings import SETTINGS, Settings

# A worker reads only local files.
WORKER_VARIABLES: Final = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "true",
    "TRANSFORMERS_VERBOSITY": "error",
}


def environment() -> Mapping[str, str]:
    return os.environ


def export_hub(settings: Settings) -> None:
    """Put the Hub cache where huggingface_hub looks. Must run before huggingface_hub is imported: it reads the
    environment at import. HUGGINGFACE_HUB_CACHE, the older name, is honoured here whatever the library's version does
    with it."""
    if settings.model_cache_dir is not None:
        os.environ["HF_HUB_CACHE"] = str(settings.model_cache_dir)
    elif "HF_HUB_CACHE" not in os.environ and "HUGGINGFACE_HUB_CACHE" in os.environ:
        os.environ["HF_HUB_CACHE"] = os.environ["HUGGINGFACE_HUB_CACHE"]


def worker_environment() -> dict[str, str]:
    """The environment of a worker process: ours, without the Hub's network and without secrets. A worker reads only local
    files, and may run code of its model's."""
    secrets = {"HF_TOKEN", *(setting.env for setting in SETTINGS if setting.secret)}
    kept = {name: value for name, value in os.environ.items() if name not in secrets}
    return {**kept, **WORKER_VARIABLES}
