"""What a client may call a model, as pure rules. `catalog` applies them to what is there.

    demo                                        a built-in model
    /models/mine, ~/mine, ./mine                a local folder; a relative one needs its ./
    mlx-community/Qwen3-0.6B-4bit               a Hub repository
    qwen3-0.6b-4bit, qwen3-0.6b                 short for a cached repository, whoever owns it

A short name means the cached repositories whose name after the slash is equal to it, or else equal up to a tail that
only says how the weights are stored (`-4bit`, `-MLX-8bit`, `-bf16`, `-4bit-DWQ`). Case does not matter. A shorter prefix does
not match: `qwen3-4b` and `Qwen3-4B-Instruct-2507-4bit` are different models. What nothing in the cache matches is
looked for in `mlx-community` on the Hub.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from mlx_server_nano.config.models import Loading, ModelOptions

DEFAULT_OWNER: Final = "mlx-community"

# huggingface_hub's own rule for repository ids (`validate_repo_id`), with the owner required.
_REPOSITORY: Final = re.compile(r"\b[\w.-]+\b/\b[\w.-]{1,96}\b", re.ASCII)
_SHORT: Final = re.compile(r"\b[\w.-]{1,96}\b", re.ASCII)

_STORAGE_TAIL: Final = re.compile(
    r"(?:[-_.](?:mlx|\d(?:\.\d+)?-?bits?|mixed[-_]\d[-_]\d(?:-?bit)?|q\d|b?f?p?16|fp?32|fp8|int[48]|mxfp[48]|nvfp4"
    r"|dwq(?:-?\d{4,8})?|awq|gptq|gs?\d+))+",
    re.ASCII,
)


class ModelKind(StrEnum):
    """Where a model's files come from."""

    HUB = "hub"
    LOCAL = "local"
    BUILT_IN = "built-in"


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model that a name was resolved to.

    id: the repository id, the folder's path or the built-in name. folder: where its files are; None for a repository that
    must be downloaded first. options: what the configuration says of the model under this name. alias: the name, if it
    stands for the model loaded in a way of its own.
    """

    id: str
    kind: ModelKind
    folder: Path | None
    options: ModelOptions = field(default_factory=ModelOptions)
    alias: str | None = None

    @property
    def name(self) -> str:
        """What clients are shown."""
        return self.alias or self.id

    @property
    def key(self) -> tuple[str, Loading]:
        """Equal for names that share a loaded model: the Hub ignores case in repository ids."""
        return self.id.casefold() if self.kind is ModelKind.HUB else self.id, self.options.loading


def is_path(name: str) -> bool:
    return name.startswith(("/", "~", "./", "../")) and "\0" not in name


def is_repository(name: str) -> bool:
    return _REPOSITORY.fullmatch(name) is not None and "--" not in name and ".." not in name


def is_short(name: str) -> bool:
    return _SHORT.fullmatch(name) is not None and "--" not in name and ".." not in name


def is_possible(name: str) -> bool:
    """Whether a model can have this name at all."""
    return is_path(name) or is_repository(name) or is_short(name)


def rank(name: str, repository: str) -> int | None:
    """How well a short name fits a repository: 0: it is its name; 1: but for a storage tail; None: it does not."""
    wanted, own = name.casefold(), repository.partition("/")[2].casefold()
    if own == wanted:
        return 0
    return 1 if own.startswith(wanted) and _STORAGE_TAIL.fullmatch(own, len(wanted)) else None
