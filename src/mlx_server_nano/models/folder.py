"""What makes a folder, or a repository's list of files, a text model that mlx-lm can load.

It needs `config.json` with a `model_type`, weights as `model*.safetensors` at the top (mlx-lm reads no other), complete
as far as the index or the names `model-00001-of-00003.safetensors` tell, and a tokenizer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Final

from mlx_server_nano.errors import UnsupportedModelError

INDEX: Final = "model.safetensors.index.json"

WEIGHTS: Final = re.compile(r"model[^/]*\.safetensors")
_SHARD: Final = re.compile(r"(.*-)\d{5}(-of-(\d{5})\.safetensors)")
_TOKENIZER: Final = re.compile(r"tokenizer\.json|tekken\.json|vocab\.(?:json|txt)|[^/]*\.(?:model|tiktoken)")
_SMALL: Final = re.compile(
    r"[^/]*\.(?:json|jsonl|jinja|model|tiktoken|txt)"
    r"|additional_chat_templates/[^/]*\.jinja"
    r"|[0-9]+_[A-Za-z]+/config\.json"  # a step of sentence-transformers
)
_CODE: Final = re.compile(r"[^/]*\.py")


def check_files(names: Collection[str], model: str) -> None:
    """Raise UnsupportedModelError if these cannot be a text model's files, saying what they are instead."""
    if "model_index.json" in names:
        raise UnsupportedModelError(f"{model} is a diffusion pipeline, not a text model.")
    if "adapter_config.json" in names and "config.json" not in names:
        raise UnsupportedModelError(f"{model} is an adapter; load the model that it was merged into.")
    if not any(WEIGHTS.fullmatch(name) for name in names):
        for suffix, form in (
            (".gguf", "GGUF"),
            (".bin", "PyTorch"),
            (".pth", "PyTorch"),
            (".npz", "NumPy"),
            (".onnx", "ONNX"),
        ):
            if any(name.endswith(suffix) for name in names):
                raise UnsupportedModelError(
                    f"{model} holds {form} weights only; MLX needs safetensors (mlx-community has converted models)."
                )
        raise UnsupportedModelError(f"{model} holds no weights (model*.safetensors).")
    if "config.json" not in names:
        raise UnsupportedModelError(f"{model} has no config.json.")
    if not any(_TOKENIZER.fullmatch(name) for name in names):
        raise UnsupportedModelError(f"{model} has no tokenizer.")


def check_config(text: bytes, model: str, model_types: frozenset[str], *, trust_remote_code: bool) -> None:
    """Raise UnsupportedModelError unless mlx-lm can build this config.json's model. No `model_types`: any type will do."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        raise UnsupportedModelError(f"{model}: config.json is not JSON.") from None
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(model_type, str):
        raise UnsupportedModelError(f"{model}: config.json names no model_type.")
    if config.get("model_file"):
        if not trust_remote_code:
            raise UnsupportedModelError(
                f"{model} brings Python code of its own, which only runs for models that --trust-remote-code names."
            )
    elif model_types and model_type not in model_types:
        raise UnsupportedModelError(f"{model}: mlx-lm knows no model type {model_type!r}.")


def small_files(names: Iterable[str], *, code: bool) -> list[str]:
    """Configuration, tokenizer, templates, pooling; Python files only with `code`."""
    return [name for name in names if _SMALL.fullmatch(name) or (code and _CODE.fullmatch(name))]


def weight_files(names: Iterable[str], index: bytes | None) -> set[str]:
    """The weight files that belong to the model, present or not. `index`: what `model.safetensors.index.json` holds."""
    if index is not None:
        try:
            weight_map: Any = json.loads(index)["weight_map"]
            return {str(file) for file in weight_map.values()}
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
            pass  # an unusable index: mlx-lm does not read it either
    found = {name for name in names if WEIGHTS.fullmatch(name)}
    for shard in [match for name in found if (match := _SHARD.fullmatch(name))]:
        found.update(f"{shard[1]}{number:05d}{shard[2]}" for number in range(1, int(shard[3]) + 1))
    return found


def check_folder(folder: Path, model: str, model_types: frozenset[str], *, trust_remote_code: bool) -> None:
    """Raise UnsupportedModelError, or OSError, unless the folder holds a complete model."""
    names = {entry.name for entry in folder.iterdir() if entry.is_file()}  # a broken link is no file
    check_files(names, model)
    check_config((folder / "config.json").read_bytes(), model, model_types, trust_remote_code=trust_remote_code)
    index = (folder / INDEX).read_bytes() if INDEX in names else None
    if missing := weight_files(names, index) - names:
        raise UnsupportedModelError(f"{model} is incomplete: {min(missing)} is missing.")


def weights_bytes(folder: Path) -> int:
    """Bytes of all weight files that mlx-lm will read."""
    return sum(entry.stat().st_size for entry in folder.iterdir() if WEIGHTS.fullmatch(entry.name))
