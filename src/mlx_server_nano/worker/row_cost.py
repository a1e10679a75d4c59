"""What rows' caches take in memory, by their length."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mlx_lm.models.cache import ArraysCache, CacheList, RotatingKVCache

from mlx_server_nano.worker import slots


@dataclass(frozen=True, slots=True)
class RowCost:
    """Bytes of all layers together. per_token: of layers that keep every token. windows: of layers that keep the last so many,
    and what each of those takes. fixed: of states, whatever the length."""

    per_token: int
    windows: tuple[tuple[int, int], ...] = ()
    fixed: int = 0

    @classmethod
    def of(cls, caches: Iterable[Any]) -> RowCost:
        """Read off caches that hold a token or more."""
        per_token, fixed = 0, 0
        windows: dict[int, int] = {}
        for cache in _flat(caches):
            if isinstance(cache, ArraysCache):
                fixed += sum(array.nbytes for array in slots.arrays(cache))
            elif isinstance(cache, RotatingKVCache):
                windows[cache.max_size] = windows.get(cache.max_size, 0) + slots.token_bytes(cache)
            else:
                per_token += slots.token_bytes(cache)
        return cls(per_token, tuple(sorted(windows.items())), fixed)

    def __call__(self, length: int) -> int:
        """Bytes of a row of this many tokens."""
        kept = sum(min(length, window) * nbytes for window, nbytes in self.windows)
        return self.fixed + self.per_token * length + kept

    def longest(self, nbytes: int, at_most: int) -> int:
        """How many tokens, `at_most` or fewer, a row can have within these bytes."""
        low, high = 0, at_most
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self(middle) <= nbytes else (low, middle - 1)
        return low


def _flat(caches: Iterable[Any]) -> Iterable[Any]:
    for cache in caches:
        if isinstance(cache, CacheList):
            yield from _flat(cache.caches)
        else:
            yield cache


def growth(cache: Any, rows: int, length: int) -> int:
    """Bytes that a layer's cache adds to hold `length` tokens of each of so many rows. States are made anew at each step."""
    if isinstance(cache, CacheList):
        return sum(growth(part, rows, length) for part in cache.caches)
    if isinstance(cache, ArraysCache):
        return 0
    if isinstance(cache, slots.SlotKV):
        return cache.growth(rows, length)
    # A lone row's own: it grows by a step, or it is copied into slots.
    own = slots.arrays(cache)
    held, needed = own[0].shape[2] if own else 0, min(length, _max_size(cache))
    if rows > 1:
        return rows * min(needed + slots.GROWTH, _max_size(cache)) * slots.token_bytes(cache)
    return (needed - held + cache.step) * slots.token_bytes(cache) if needed > held else 0


def _max_size(cache: Any) -> int:
    return cache.max_size if isinstance(cache, RotatingKVCache) else 1 << 62
