"""One forward pass through rows whose caches lie apart: rows alone in their own, and groups in slots.

For such a pass each layer's caches are joined. Whatever a layer computes token by token it computes for all rows together, so its
weights are read once; attention runs once for each part, over what that part's rows have.

mlx-lm's models hand what a cache returns to the `scaled_dot_product_attention` of `mlx_lm.models.base`, by that name in
their own modules. `prepare` puts `attend` there, which knows what joined caches return. A model that does anything else
with it raises TypeError or AttributeError, so that trying once is enough to know."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Any, Final

import mlx.core as mx
from mlx_lm.models import base
from mlx_lm.models.cache import ArraysCache, CacheList

from mlx_server_nano.worker.attention import attention

Caches = list[Any]

_ATTENTION: Final = "scaled_dot_product_attention"


@dataclass(frozen=True, slots=True)
class Part:
    """caches: a layer each, of one row alone or of several in slots. lengths: the tokens that they hold of each row."""

    caches: Caches
    lengths: list[int]


class Pieces:
    """What joined caches return in place of an array: a value for each part."""

    def __init__(self, of: list[Any]) -> None:
        self.of = of


class _Joined:
    """Stands in for a layer's cache of attention; has what mlx-lm's models need of one."""

    def __init__(self, parts: list[Any], rows: list[slice], offset: mx.array) -> None:
        """offset: int32 `[rows]`."""
        self.offset = offset
        self._parts = parts
        self._rows = rows
        self._held: tuple[Pieces, Pieces] | None = None

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Pieces, Pieces]:
        """`[rows, heads, width, dim]` go to the parts. The keys come with all that attention needs: a model may hand them to a
        layer that has no cache."""
        held = [part.update_and_fetch(keys[at], values[at]) for part, at in zip(self._parts, self._rows, strict=True)]
        self.offset = self.offset + keys.shape[2]
        found = [(*part, *pair) for part, pair in zip(zip(self._parts, self._rows, strict=True), held, strict=True)]
        self._held = Pieces(found), Pieces([])
        return self._held

    def keys_and_values(self) -> tuple[Pieces, Pieces]:
        if self._held is None:
            raise TypeError("nothing has been written")
        return self._held

    def make_mask(self, n: int, return_array: bool = False, window_size: int | None = None) -> Pieces | None:
        masks = [part.make_mask(n, return_array=return_array, window_size=window_size) for part in self._parts]
        return None if all(mask is None for mask in masks) else Pieces(masks)


def attend(  # noqa: PLR0917 - the signature is mlx-lm's
    queries: mx.array, keys: Any, values: Any, cache: Any, scale: float, mask: Any, sinks: mx.array | None = None
) -> mx.array:
    """mlx-lm's attention, `[rows, heads, width, dim]`; for joined caches one part after the other."""
    if not isinstance(keys, Pieces):
        return attention(queries, keys, values, cache, scale, mask, sinks)
    if mask is None:
        mask = Pieces([None] * len(keys.of))
    elif not isinstance(mask, Pieces):
        raise TypeError("a mask that no cache made")
    return mx.concatenate(
        [
            attention(queries[rows], own_keys, own_values, part, scale, own_mask, sinks)
            for (part, rows, own_keys, own_values), own_mask in zip(keys.of, mask.of, strict=True)
        ]
    )


def prepare(model: Any) -> None:
    """Let the modules that a model's layers come from attend with `attend`. Code that a repository brings is no module of
    `sys.modules`: such a model is found out by its trial, and its groups take passes of their own."""
    for name in {type(layer).__module__ for layer in model.modules()}:
        module = sys.modules.get(name)
        if getattr(module, _ATTENTION, None) is base.scaled_dot_product_attention:
            setattr(module, _ATTENTION, attend)


def through(
    model: Callable[..., mx.array], inputs: mx.array, parts: Rows[Caches], counts: Rows[int], offset: mx.array
) -> mx.array:
    """Logits `[rows, width, vocabulary]` after `inputs` `[rows, width]`. parts: each part's caches, a layer each, which take the
    tokens in. counts: each part's rows. offset: int32 `[rows]`, the tokens in each row's caches."""
    if len(parts) == 1:
        return model(inputs, cache=parts[0])
    rows = list(ranges(counts))
    layers = list(zip(*parts, strict=True))
    joined = [_join(list(layer), rows, offset) for layer in layers]
    logits = model(inputs, cache=joined)
    for layer, whole in zip(layers, joined, strict=True):
        _divide(whole, list(layer), rows)
    return logits


def ranges(counts: Rows[int]) -> Iterator[slice]:
    """Where each part's rows are among all."""
    start = 0
    for count in counts:
        yield slice(start, start + count)
        start += count


def _join(parts: list[Any], rows: list[slice], offset: mx.array) -> Any:
    if isinstance(parts[0], CacheList):
        return CacheList(*(_join(list(same), rows, offset) for same in zip(*(p.caches for p in parts), strict=True)))
    if isinstance(parts[0], ArraysCache):
        whole = ArraysCache(len(parts[0].cache))
        whole.cache = [mx.concatenate(list(same)) for same in zip(*(part.cache for part in parts), strict=True)]
        return whole
    return _Joined(parts, rows, offset)


def detach(cache: Any) -> None:
    """Let a row's states lie by themselves: what a shared pass leaves of them is a slice, which holds all rows' states."""
    for part in cache.caches if isinstance(cache, CacheList) else ():
        detach(part)
    if isinstance(cache, ArraysCache):
        cache.cache = [None if array is None else mx.contiguous(array) for array in cache.cache]


def _divide(whole: Any, parts: list[Any], rows: list[slice]) -> None:
    """Give each part its rows' states; keys and values are with it already."""
    if isinstance(whole, CacheList):
        for i, same in enumerate(whole.caches):
            _divide(same, [part.caches[i] for part in parts], rows)
    elif isinstance(whole, ArraysCache):
        for part, at in zip(parts, rows, strict=True):
            part.cache = [array[at] for array in whole.cache]
