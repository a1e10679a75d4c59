"""Where rows that decode together write their tokens."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass

import mlx.core as mx


@dataclass(frozen=True, slots=True)
class Positions:
    """Where each row of a step writes: the same for all layers.

    lengths: each row's length before the step. width: tokens of each row. offset, after: int32 `[rows]`, before and after
    the step. each: `[rows, width]`, the position of every token."""

    lengths: tuple[int, ...]
    width: int
    offset: mx.array
    after: mx.array
    each: mx.array

    @classmethod
    def of(cls, lengths: Rows[int], width: int = 1) -> Positions:
        offset = mx.array(list(lengths), dtype=mx.int32)
        each = offset[:, None] + mx.arange(width, dtype=mx.int32)
        return cls(tuple(lengths), width, offset, offset + width, each)

    @property
    def level(self) -> bool:
        """Whether all rows are at the same position, so that slices do and no mask is needed."""
        return min(self.lengths) == max(self.lengths)
