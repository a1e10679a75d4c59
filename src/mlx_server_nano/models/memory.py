"""How much memory there is for models, and how much one takes."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

DEFAULT_SHARE: Final = 0.75  # of what the device recommends, or of the machine's memory
WEIGHTS_OVERHEAD: Final = 1.05
_CGROUP_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")


def memory_limit(configured: int | None, device_bytes: int | None) -> int:
    """Bytes for all models together: the operator's number, else a share of what the device recommends at most, else of
    the memory of this machine or container."""
    if configured is not None:
        return configured
    return int(DEFAULT_SHARE * (device_bytes or _machine_bytes()))


def estimate(weights_bytes: int) -> int:
    """Bytes that a model takes before it has been seen to run.

    The weights and a twentieth, and a quarter of the weights for KV caches and activations, between 128 MiB and 2 GiB: a
    conversation of some 10,000 tokens for most models. Once it runs, what the worker reports counts, if that is more.
    """
    margin = min(max(weights_bytes // 4, 128 << 20), 2 << 30)
    return int(weights_bytes * WEIGHTS_OVERHEAD) + margin


def gibibytes(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB"


def _machine_bytes() -> int:
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # elsewhere than Linux, or "max"
        return min(physical, int(_CGROUP_LIMIT.read_text()))
    return physical
