"""Whether MLX is installed in a way that can work, told without importing it.

On Linux the package `mlx` comes with a CPU part or a CUDA part. Both carry the same library file, so with both installed
the one that came last is used, and removing either leaves none.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Final

_CPU: Final = "mlx-cpu"
_CUDA: Final = ("mlx-cuda-13", "mlx-cuda-12", "mlx-cuda")


def _installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def installation_problem(platform: str = sys.platform, installed: Callable[[str], bool] = _installed) -> str | None:
    """One line that says what is wrong with the installation of MLX and what to do; None if nothing is."""
    if not installed("mlx"):
        extra = "[cpu]" if platform == "linux" else ""
        return f"MLX is not installed: pip install 'mlx{extra}'"
    if platform != "linux":
        return None
    parts = [part for part in (_CPU, *_CUDA) if installed(part)]
    if not parts:
        return "MLX has no CPU or CUDA part: pip install 'mlx[cpu]', or 'mlx[cuda13]' for an NVIDIA GPU"
    if len(parts) > 1:
        names = " ".join(parts)
        return (
            f"{' and '.join(parts)} carry the same library file and do not work together: pip uninstall -y {names}, "
            f"then pip install --force-reinstall --no-deps {parts[1]} (or {parts[0]})"
        )
    return None
