"""What MLX runs on and how much memory it may hold."""

from __future__ import annotations

import os

import mlx.core as mx

from mlx_server_nano.protocol import Device


def device() -> Device:
    info = mx.device_info()
    backend = "metal" if mx.metal.is_available() else "cuda" if mx.default_device() == mx.gpu else "cpu"
    limit = info.get("max_recommended_working_set_size") or (info.get("total_memory") if backend == "cuda" else None)
    return Device(
        name=str(info.get("device_name", backend)), backend=backend, memory_bytes=int(limit) if limit else None
    )


def wire() -> None:
    """Metal only: keep the model's memory resident, as mlx-lm does while it generates; else macOS may page idle weights
    out."""
    if mx.metal.is_available() and (limit := mx.device_info().get("max_recommended_working_set_size")):
        mx.set_wired_limit(int(limit))


def prefix_budget(asked: int | None) -> int:
    """Bytes for the prefix cache: as asked, else a tenth of what the device or the machine has."""
    if asked is not None:
        return asked
    return (device().memory_bytes or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) // 10


def is_shortage(error: Exception) -> bool:
    """Whether MLX could not allocate. It raises RuntimeError with the words of the device: "[malloc] Unable to allocate",
    "[metal::malloc] Attempting to allocate", "Insufficient Memory", "out of memory"."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or any(
        sign in words for sign in ("to allocate", "out of memory", "insufficient memory", "resource limit")
    )


def held_bytes() -> int:
    """All that MLX holds: arrays in use and its cache of free buffers."""
    return int(mx.get_active_memory() + mx.get_cache_memory())
