"""What tells a model and the build that runs it apart from others, so that no KV cache is ever used with another."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlx_server_nano import __version__
from mlx_server_nano.worker import memory


def fingerprint(folder: Path, caches: list[Any], adapter: Path | None = None) -> str:
    """64 hexadecimal digits. folder: the model's. caches: its own, empty, whose kinds and settings count. adapter:
    the folder of the LoRA adapter on the model.

    Weights count by name, size and time of their last change, as reading them all would take as long as loading them."""
    files = [path for path in folder.iterdir() if path.suffix in (".safetensors", ".py")]
    facts = {
        "build": {"mlx-server-nano": __version__, **{name: version(name) for name in ("mlx", "mlx-lm")}},
        "backend": memory.device().backend,
        "config": (folder / "config.json").read_text(encoding="utf-8"),
        "files": sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files),
        "caches": [(type(cache).__name__, repr(_settings(cache))) for cache in caches],
    }
    if adapter is not None:
        facts["adapter"] = [
            _digest(path) for path in sorted(adapter.iterdir()) if path.suffix in (".safetensors", ".json")
        ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}"


def _settings(cache: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(cache).items() if isinstance(value, int | float | str)}
