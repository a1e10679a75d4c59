"""A LoRA adapter on a model, by mlx-lm's own functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_server_nano.errors import ModelLoadError


def apply(model: Any, folder: Path) -> None:
    """Put the adapter's layers into the model. Raises ModelLoadError for one that is damaged or another model's."""
    # Imports mlx-lm's training, which no other model needs.
    from mlx_lm.tuner.utils import load_adapters

    try:
        if not mx.load(str(folder / "adapters.safetensors")):
            raise ValueError("adapters.safetensors is empty")
        load_adapters(model, str(folder))
    except Exception as error:
        raise ModelLoadError(
            f"The adapter {folder.name} can't be used with this model: {_reason(error, folder)}"
        ) from error
    model.eval()  # no dropout


def _reason(error: Exception, folder: Path) -> str:
    if isinstance(error, AttributeError | KeyError):
        return f"adapter_config.json lacks {error.name if isinstance(error, AttributeError) else error.args[0]!r}."
    # Of tensors that do not fit, mlx-lm lists each on a line; the first tells enough.
    lines = str(error).replace(str(folder), folder.name).splitlines() or [type(error).__name__]
    return " ".join(line.strip() for line in lines[:2])[:300]
