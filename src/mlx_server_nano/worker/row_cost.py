"""What a row's caches take in memory, by its length."""

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
