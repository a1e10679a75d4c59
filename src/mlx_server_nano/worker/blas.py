"""OpenBLAS ahead of the BLAS that MLX brings along.

MLX's CPU wheels for Linux carry the reference BLAS, whose single-precision products take tens of times as long as OpenBLAS's.
libmlx looks up `cblas_sgemm` and the like by name, and the dynamic linker takes the first library in the process's global
scope that has it: one that is loaded there before MLX is imported. Imports nothing heavy."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

# As Debian, Ubuntu, Arch and conda name it, and Fedora its threaded build.
_NAMES: Final = ("libopenblas.so.0", "libopenblasp.so.0", "libopenblas.so")

_LOG = logging.getLogger(__name__)


def prefer_openblas(
    platform: str = sys.platform, load: Callable[..., Any] = ctypes.CDLL, version: Callable[[str], str] = version
) -> str | None:
    """Load the system's OpenBLAS for MLX to find; to be called before MLX is imported. Gives its version and build as
    it tells them; None where there is none, or MLX has a better BLAS or a GPU."""
    if platform != "linux":
        return None
    try:
        version("mlx-cpu")
    except PackageNotFoundError:
        return None
    for name in _NAMES:
        try:
            build = _described(load(name))
            # With 64-bit integers in its interface it is not the BLAS that MLX was built for.
            if "USE64BITINT" not in build:
                library = load(name, mode=ctypes.RTLD_GLOBAL)
                _spare_a_core(library)
                _LOG.info("Single-precision products are computed by %s", build)
                return build
        except (OSError, AttributeError):
            continue
    _LOG.info(
        "MLX computes single-precision products with the slow reference BLAS that it carries. The system's OpenBLAS would be used"
        " if it were installed: apt-get install libopenblas0, or dnf install openblas-threads"
    )
    return None


def _described(library: Any) -> str:
    """Raises AttributeError for a library that is no OpenBLAS, or has other names in it than MLX looks for."""
    for needed in ("cblas_sgemm", "cblas_cgemm", "sgesdd_", "openblas_set_num_threads"):
        getattr(library, needed)
    library.openblas_get_config.restype = ctypes.c_char_p
    return str(library.openblas_get_config().decode(errors="replace")).strip()


def _spare_a_core(library: Any) -> None:
    """Its threads wait in a busy loop for each other, and a thread of Python builds the next step meanwhile: on all cores, a
    decode step takes a tenth to a quarter longer. Another number is the user's choice (OPENBLAS_NUM_THREADS) and stays."""
    cores = os.cpu_count() or 1
    if 1 < cores == library.openblas_get_num_threads():
        library.openblas_set_num_threads(cores - 1)
