"""Tiny models, made and loaded once a session."""

from __future__ import annotations

import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from mlx_server_nano.worker.loader import LoadedModel
from tests.tiny_models import assets, make_model
from tests.worker import harness

Tiny = Callable[..., LoadedModel]


@pytest.fixture(autouse=True)
def same_arrays() -> None:
    """Each test gets the same random arrays, whichever ran before it."""
    mx.random.seed(0)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`make_model` that keeps what it made: for reading only."""
    made: dict[str, Path] = {}

    def folder(arch: str = "qwen3", **settings: Any) -> Path:
        key = repr((arch, sorted(settings.items())))
        if key not in made:
            made[key] = make_model(tmp_path_factory.mktemp("model") / arch, arch, **settings)
        return made[key]

    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder: Callable[..., Path]) -> Tiny:
    """Loaded models by architecture and `make_model`'s settings."""
    loaded: dict[Path, LoadedModel] = {}

    def load(arch: str = "qwen3", **settings: Any) -> LoadedModel:
        folder = tiny_folder(arch, **settings)
        if folder not in loaded:
            loaded[folder] = harness.load(folder)
        return loaded[folder]

    return load


@pytest.fixture(scope="session")
def real_tokenizer() -> Callable[[str], Any]:
    """Tokenizers of the shared assets by name, without mlx-lm's and the model's wrappers."""
    read: dict[str, Any] = {}

    def tokenizer(name: str) -> Any:
        if name not in read:
            packed = (assets() / "tokenizers" / name / "tokenizer.json.xz").read_bytes()
            backend = Tokenizer.from_str(lzma.decompress(packed).decode())
            read[name] = PreTrainedTokenizerFast(tokenizer_object=backend)
        return read[name]

    return tokenizer
