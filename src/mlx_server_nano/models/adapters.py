"""LoRA adapters in mlx-lm's layout: a folder of this machine or a Hub repository with `adapter_config.json` and
`adapters.safetensors`."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

from mlx_server_nano.errors import ModelLoadError
from mlx_server_nano.models import cache, names

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapters.safetensors"


def find(adapter: str, cache_dir: Path) -> Path | None:
    """The folder of an adapter by its path or repository; None: it must be downloaded first. Reads the disk.

    Raises ModelLoadError for a folder that is none."""
    if names.is_path(adapter):
        try:
            folder = Path(adapter).expanduser().absolute()
            check_files([entry.name for entry in folder.iterdir() if entry.is_file()], adapter)
        except (OSError, RuntimeError) as error:
            raise ModelLoadError(f"The adapter {adapter} can't be read: {error}") from error
        return folder
    for repository, storage in cache.repositories(cache_dir).items():
        if repository.casefold() == adapter.casefold():
            for snapshot in cache.snapshots(storage):
                if (snapshot / CONFIG).is_file() and (snapshot / WEIGHTS).is_file():
                    return snapshot
    return None


def check_files(files: Collection[str], adapter: str) -> None:
    """Raises ModelLoadError unless these files are an adapter that mlx-lm can load."""
    for name in (CONFIG, WEIGHTS):
        if name not in files:
            hint = " (that of PEFT is another layout)" if "adapter_model.safetensors" in files else ""
            raise ModelLoadError(f"The adapter {adapter} has no {name}{hint}.")


def weights_bytes(folder: Path) -> int:
    return (folder / WEIGHTS).stat().st_size
