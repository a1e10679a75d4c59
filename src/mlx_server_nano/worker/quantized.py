"""KV caches that hold their keys and values quantized, for layers of plain attention.

mlx-lm's attention reads quantized keys and values where a cache says `bits`, and makes all scores of a pass then, heads
times tokens times length. That suits a decode step; for a chunk of a prompt it would be gigabytes, so a wide pass gets the
layer's keys and values unpacked, for the time of that layer, and its attention is the fused one. So does every pass of MLX's
CUDA build, which has no product of quantized matrices for any length of keys.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.models.cache import CacheList, KVCache, create_attention_mask

from mlx_server_nano.worker import attention
from mlx_server_nano.worker.slots import GROWTH, SlotKV

FULL_PRECISION: Final = 16
_WIDE = 32  # tokens of a row in a pass from which on it is a prompt's

Packed = tuple[mx.array, mx.array, mx.array]
"""Quantized values `[..., tokens, words]`, their scales and biases `[..., tokens, groups]`: what `mx.quantize` gives."""


class _Bits:
    """What mlx-lm's attention looks at: `bits` is only there while a pass reads packed keys."""

    def __init__(self, bits: int, group_size: int = 0) -> None:
        self.group_size = group_size
        self._bits = bits
        self._unpacked = False

    @property
    def bits(self) -> int:
        if self._unpacked:
            raise AttributeError("bits")
        return self._bits

    def _pack(self, array: mx.array) -> Packed:
        if not self.group_size:
            self.group_size = 64 if array.shape[-1] % 64 == 0 else 32
        words, scales, biases = mx.quantize(array, group_size=self.group_size, bits=self._bits)
        return words, scales, biases

    def _give(self, keys: Packed, values: Packed, width: int) -> tuple[Any, Any]:
        self._unpacked = width >= _WIDE or attention.plans_shapes()
        return (self._unpack(keys), self._unpack(values)) if self._unpacked else (keys, values)

    def _unpack(self, packed: Packed) -> mx.array:
        words, scales, biases = packed
        return mx.dequantize(words, scales, biases, group_size=self.group_size, bits=self._bits)


class QuantizedKV(_Bits):
    """A row's own cache in place of mlx-lm's KVCache, with what the models and `slots` need of one."""

    step = GROWTH

    def __init__(self, bits: int) -> None:
        super().__init__(bits)
        self.keys: Packed | None = None
        self.values: Packed | None = None
        self.offset = 0

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Any, Any]:
        """Append `[1, heads, tokens, dim]`; gives all keys and values, packed or, in a wide pass, not."""
        start, self.offset = self.offset, self.offset + keys.shape[2]
        packed = self._pack(keys), self._pack(values)
        if self.keys is None or self.values is None:
            self.keys, self.values = (_grown(new, 0, self.offset) for new in packed)
        elif self.offset > self.keys[0].shape[2]:
            self.keys, self.values = (_grown(old, start, self.offset) for old in (self.keys, self.values))
        for mine, new in zip((*self.keys, *self.values), (*packed[0], *packed[1]), strict=True):
            mine[:, :, start : self.offset] = new
        return self._give(*self.keys_and_values(), width=keys.shape[2])

    def keys_and_values(self) -> tuple[Packed, Packed]:
        """`[1, heads, tokens, ...]`; there must be some."""
        keys, values = self._held()
        return _cut(keys, self.offset), _cut(values, self.offset)

    def _held(self) -> tuple[Packed, Packed]:
        if self.keys is None or self.values is None:
            raise ValueError("the cache is empty")
        return self.keys, self.values

    def make_mask(self, n: int, return_array: bool = False, window_size: int | None = None) -> Any:
        return create_attention_mask(n, offset=self.offset, return_array=return_array, window_size=window_size)

    def trim(self, count: int) -> int:
        """Forget the last tokens."""
        self.offset -= min(count, self.offset)
        return count

    def first(self, length: int, row: int = 0) -> QuantizedKV:
        """A copy of a row's first `length` tokens."""
        (keys, values), at = self._held(), slice(row, row + 1)
        return _row(self._bits, self.group_size, _cut(keys, length, at), _cut(values, length, at))

    def new_slots(self) -> SlotQuantized:
        return SlotQuantized(self._bits)

    @property
    def state(self) -> Any:
        return [list(self.keys or ()), list(self.values or ()), self.offset, self.group_size]

    @state.setter
    def state(self, state: Any) -> None:
        keys, values, self.offset, self.group_size = state
        self.keys, self.values = (keys[0], keys[1], keys[2]), (values[0], values[1], values[2])


class SlotQuantized(_Bits, SlotKV):
    """Slots of plain attention whose keys and values are packed; `keys` and `values` are tuples here."""

    def __init__(self, bits: int) -> None:
        _Bits.__init__(self, bits)
        SlotKV.__init__(self)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Any, Any]:
        new = self._pack(keys), self._pack(values)
        parts = self._stored(*zip((*self.keys, *self.values), (*new[0], *new[1]), strict=True))
        self.keys, self.values = tuple(parts[:3]), tuple(parts[3:])
        return self._give(*self.keys_and_values(), width=keys.shape[2])

    def keys_and_values(self) -> tuple[Any, Any]:
        rows, length = slice(len(self._positions.lengths)), self._used()
        return _cut(self.keys, length, rows), _cut(self.values, length, rows)

    def put(self, slot: int, cache: QuantizedKV) -> None:
        self.group_size = cache.group_size
        super().put(slot, cache)

    def extract(self, slot: int, length: int) -> QuantizedKV:
        at = slice(slot, slot + 1)
        return _row(self._bits, self.group_size, _cut(self.keys, length, at), _cut(self.values, length, at))


def quantized(caches: Iterable[Any], bits: int | None) -> list[Any]:
    """Empty caches of a model with those of plain attention replaced; the others stay as they are."""
    if bits is None or bits == FULL_PRECISION:
        return list(caches)
    return [_replaced(cache, bits) for cache in caches]


def _replaced(cache: Any, bits: int) -> Any:
    if type(cache) is CacheList:
        return CacheList(*(_replaced(part, bits) for part in cache.caches))
    return QuantizedKV(bits) if type(cache) is KVCache else cache


def _row(bits: int, group_size: int, keys: Packed, values: Packed) -> QuantizedKV:
    cache = QuantizedKV(bits)
    cache.keys, cache.values = (tree_map(mx.contiguous, packed) for packed in (keys, values))
    cache.offset, cache.group_size = keys[0].shape[2], group_size
    return cache


def _cut(packed: Packed, length: int, rows: slice = slice(None)) -> Packed:
    words, scales, biases = packed
    return words[rows, :, :length], scales[rows, :, :length], biases[rows, :, :length]


def _grown(packed: Packed, held: int, needed: int) -> Packed:
    """Room for `needed` tokens in steps, with the first `held` kept."""
    room = -(-needed // GROWTH) * GROWTH - held

    def grow(part: mx.array) -> mx.array:
        empty = mx.zeros((*part.shape[:2], room, part.shape[3]), part.dtype)
        return mx.concatenate([part[:, :, :held], empty], axis=2)

    words, scales, biases = packed
    return grow(words), grow(scales), grow(biases)
