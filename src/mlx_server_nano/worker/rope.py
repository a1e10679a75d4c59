"""Rotary position embeddings whose cosines and sines are computed once for all layers: on a CPU.

MLX has kernels for GPUs. Elsewhere `mx.fast.rope` computes the cosines and sines of its positions at each call, for the queries
and the keys of each layer, which is a tenth of a step of a small model."""

from __future__ import annotations

from typing import Any, Final

import mlx.core as mx
from mlx import nn

_BLOCK: Final = 64  # positions that are computed at a time
# Positions of a call that takes them from a table: of long ones, nearly all the time goes elsewhere.
_WIDEST: Final = 16
# Vector units leave no rest of halves of such heads. A rest may be rounded otherwise, and what is one depends on the shape.
_HEADS: Final = 32


class _Table:
    """Cosines and sines for all modules that are like `rope`, at the positions that were asked for last and some after them."""

    def __init__(self, rope: nn.RoPE) -> None:
        self._rope = rope
        self._block: tuple[int, mx.Dtype] | None = None
        self._rows = self._cut = (mx.array(0), mx.array(0))
        self._asked: tuple[int, int, mx.Dtype] | None = None

    def at(self, offset: int, width: int, dtype: mx.Dtype) -> tuple[mx.array, mx.array]:
        """Factors `[width, dims]`, for a head and for the same head with its halves in each other's places."""
        asked = (offset, width, dtype)
        if asked != self._asked:
            first = offset % _BLOCK
            if self._block != (offset - first, dtype):
                self._rows = self._computed(offset - first, dtype)
                self._block = (offset - first, dtype)
            cosines, sines = self._rows
            self._cut = cosines[first : first + width], sines[first : first + width]
            self._asked = asked
        return self._cut

    def _computed(self, start: int, dtype: mx.Dtype) -> tuple[mx.array, mx.array]:
        dims = self._rope.dims
        # A half of ones and one of zeros, rotated, are the very cosines and sines that anything is rotated by.
        unit = mx.broadcast_to(mx.arange(dims) < dims // 2, (1, 1, _BLOCK + _WIDEST, dims)).astype(dtype)
        cosines, sines = mx.split(self._rope(unit, start)[0, 0], 2, -1)
        return mx.concatenate([cosines, cosines], -1), mx.concatenate([-sines, sines], -1)


class _RoPE(nn.RoPE):
    """table: shared with the modules that rotate alike."""

    def __call__(self, x: mx.array, offset: Any = 0) -> mx.array:
        """`[rows, heads, width, dims]`, rotated. Offsets that differ between rows are an array, and left to MLX's function."""
        if type(offset) is not int or x.ndim != 4 or x.shape[2] > _WIDEST or x.shape[3] != self.dims:
            return super().__call__(x, offset)
        cosines, sines = self.table.at(offset, x.shape[2], x.dtype)
        return x * cosines + mx.roll(x, self.dims // 2, -1) * sines


def share_tables(model: Any) -> None:
    """Let a model's layers share cosines and sines. What they compute stays the same, bit for bit."""
    alike = [m for m in model.modules() if type(m) is nn.RoPE and not m.traditional and m.dims % _HEADS == 0]
    tables = {(m.dims, m.base, m.scale): _Table(nn.RoPE(m.dims, base=m.base, scale=m.scale)) for m in alike}
    for module in alike:
        module.__class__ = _RoPE
        module.table = tables[module.dims, module.base, module.scale]
