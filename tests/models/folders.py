"""Folders that look like models, for tests in which nothing loads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def write_model(
    folder: Path, *, shards: int = 1, weights: bytes = b"w" * 5000, files: Mapping[str, str] | None = None
) -> Path:
    """The files of a small model and some that do not belong to it; `files` adds to them and replaces them."""
    folder.mkdir(parents=True)
    content = {
        "config.json": '{"model_type": "qwen3"}',
        "tokenizer.json": "{}",
        "tokenizer_config.json": "{}",
        "chat_template.jinja": "{{ messages }}",
        "README.md": "about",
        "original/params.json": "{}",
        **(files or {}),
    }
    for name, text in content.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    for shard in range(1, shards + 1):
        name = "model.safetensors" if shards == 1 else f"model-{shard:05d}-of-{shards:05d}.safetensors"
        (folder / name).write_bytes(weights + bytes([shard]))
    return folder


def write_sparse(folder: Path, weights_bytes: int) -> Path:
    """A model whose weights have this size and take no space."""
    write_model(folder)
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(weights_bytes)
    return folder


def cache_repository(cache: Path, repository: str, **kwargs: object) -> Path:
    """Put such a model into a Hub cache; returns the snapshot."""
    storage = cache / f"models--{repository.replace('/', '--')}"
    revision = repository.encode().hex().ljust(40, "0")[:40]  # no two repositories share one
    snapshot = write_model(storage / "snapshots" / revision, **kwargs)  # type: ignore[arg-type]
    (storage / "refs").mkdir()
    (storage / "refs" / "main").write_text(revision)
    return snapshot
