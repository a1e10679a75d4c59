"""A model's caches as arrays and a JSON text that says how they make up mlx-lm's cache states."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import mlx.core as mx

from mlx_server_nano.worker import slots
from mlx_server_nano.worker.kvfile import Tensor

_ARRAY: Final = "array"
_NAMES: Final = {
    mx.float32: "F32",
    mx.float16: "F16",
    mx.bfloat16: "BF16",
    mx.uint8: "U8",
    mx.uint32: "U32",
    mx.int32: "I32",
    mx.int64: "I64",
}

Caches = list[Any]


class LayoutError(Exception):
    """These caches can't be written, or what was written makes no caches of this model."""


def pack(caches: Caches, length: int) -> tuple[str, list[mx.array], tuple[Tensor, ...]]:
    """The first `length` tokens of caches: the layout, the arrays, lazy, and what they are. Raises LayoutError."""
    arrays: list[mx.array] = []
    states = [(slots.cut_copy(cache, length) if slots.cuttable(cache) else cache).state for cache in caches]
    packed = json.dumps([_take_apart(state, arrays) for state in states], separators=(",", ":"))
    try:
        tensors = tuple(Tensor(_NAMES[array.dtype], array.shape, array.nbytes) for array in arrays)
    except KeyError as error:
        raise LayoutError(f"there is no name for arrays of {error}") from error
    return packed, arrays, tensors


def unpack(fresh: Caches, packed: str, arrays: Sequence[mx.array]) -> Caches:
    """Fill empty caches from what `pack` gave. Raises LayoutError."""
    try:
        for cache, state in zip(fresh, json.loads(packed), strict=True):
            cache.state = _put_together(state, arrays)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise LayoutError(f"its arrays make no caches of this model ({error})") from error
    return fresh


def _take_apart(state: Any, arrays: list[mx.array]) -> Any:
    if isinstance(state, mx.array):
        arrays.append(state)
        return {_ARRAY: len(arrays) - 1}
    if isinstance(state, list | tuple):
        return [_take_apart(part, arrays) for part in state]
    if state is None or isinstance(state, int | float | str):
        return state
    raise LayoutError(f"a cache state holds a {type(state).__name__}")


def _put_together(state: Any, arrays: Sequence[mx.array]) -> Any:
    if isinstance(state, dict):
        return arrays[state[_ARRAY]]
    return [_put_together(part, arrays) for part in state] if isinstance(state, list) else state
