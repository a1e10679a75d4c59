"""How a model's hidden states become one vector for a text, read from sentence-transformers' files in the repository:
`modules.json` lists the steps, `1_Pooling/config.json` says which states count.

A model without them gets the mean over its tokens, at length 1."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from mlx_server_nano.errors import InvalidRequestError


class Pooling(Enum):
    """Which hidden states count."""

    LAST = "lasttoken"
    MEAN = "mean"
    CLS = "cls"


# The older form of 1_Pooling/config.json: a flag for each mode.
_FLAGS = {
    "pooling_mode_lasttoken": Pooling.LAST,
    "pooling_mode_mean_tokens": Pooling.MEAN,
    "pooling_mode_cls_token": Pooling.CLS,
}


@dataclass(frozen=True, slots=True)
class EmbeddingPlan:
    """refusal: why this model gives no embeddings; None: it does."""

    pooling: Pooling = Pooling.MEAN
    normalize: bool = True
    refusal: str | None = None

    def check(self) -> None:
        """Raises InvalidRequestError if the model gives no embeddings."""
        if self.refusal is not None:
            raise InvalidRequestError(f"This model gives no embeddings: {self.refusal}.", param="model")


def read_plan(folder: Path, config: dict[str, Any]) -> EmbeddingPlan:
    """`config`: the model's config.json. Nothing is raised: what can't be followed is a plan with a refusal."""
    text = config.get("text_config") or config
    if text.get("use_bidirectional_attention"):
        return EmbeddingPlan(refusal="it was trained to look at later tokens too, and mlx-lm's models do not")
    if not (folder / "modules.json").is_file():
        return EmbeddingPlan()
    try:
        steps = {str(module["type"]).rpartition(".")[2]: module for module in _read(folder / "modules.json")}
        if unknown := steps.keys() - {"Transformer", "Pooling", "Normalize"}:
            return EmbeddingPlan(refusal=f"modules.json asks for {min(unknown)}, which this server does not know")
        pooling = _pooling(_read(folder / steps["Pooling"]["path"] / "config.json")) if "Pooling" in steps else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return EmbeddingPlan(refusal=f"its sentence-transformers files are damaged ({error!r})")
    if pooling is None:
        return EmbeddingPlan(refusal="its pooling is none of last token, mean and cls")
    return EmbeddingPlan(pooling, normalize="Normalize" in steps)


def _pooling(config: dict[str, Any]) -> Pooling | None:
    """None for a mode, or a combination of modes, that is not among `Pooling`'s."""
    modes = [_FLAGS.get(name) for name, on in config.items() if name.startswith("pooling_mode_") and on is True]
    if (mode := config.get("pooling_mode")) is not None:
        modes = [next((known for known in Pooling if known.value == mode), None)]
    return modes[0] if len(modes) == 1 else None


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
