"""A decode step as one compiled function, so that the host does not rebuild the model's graph for every token.

The keys and values of all rows go in and come out as arrays of fixed capacity; where each row writes is an array too. What
would change from step to step, the length that attention reads, is rounded up, and a mask hides the rest. So a
function serves many steps, and a new one is traced where rows or rounded lengths change. The arrays that come out take the
place of those that went in before anything runs, so MLX may write in place."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import ArraysCache, CacheList, KVCache, RotatingKVCache

from mlx_server_nano.worker import slots
from mlx_server_nano.worker.joint import Part, ranges, through
from mlx_server_nano.worker.positions import Positions
from mlx_server_nano.worker.slots import SlotKV, SlotRing

_LOG = logging.getLogger(__name__)

# As KVCache grows by.
_STEP = 256
# To trace costs about two steps, and a group of these rows may be gone at the next: not before it has been seen this often. A
# plain step of so many rows may cost as much where it is the first one, so not much later either.
_SETTLED = 2
_KEPT = 48
# Where several parts share a step, a row alone in one needs no mask: from this length on, that is worth more than what compiling
# spares the host.
_LONG_ALONE = 4096
ANY_LENGTH = 1 << 62

Caches = list[Any]


@dataclass(frozen=True, slots=True)
class Compiles:
    """Up to which length, in tokens, to compile the steps of a row that is alone, and those of rows together. 0: none."""

    alone: int = 0
    together: int = 0


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a traced function is good for, of each part. rows: with those in slots that are not in use. bound: key positions that
    attention reads. full: no row's window has room left. arrays: shapes of some of the caches' arrays, of each kind that there
    is."""

    rows: int
    bound: int
    full: bool
    arrays: tuple[Any, ...]


_Shapes = tuple[_Shape, ...]


class CompiledStep:
    """Runs decode steps of groups whose rows and caches stay as they are for a while."""

    def __init__(self, model: Callable[..., mx.array], compiles: Compiles, settled: int = _SETTLED) -> None:
        """compiles may change later. settled: how often a shape must have been asked for before it is traced."""
        self._model = model
        self.compiles = compiles
        self._settled = settled
        self._traced: OrderedDict[_Shapes, Callable[..., tuple[mx.array, list[mx.array]]]] = OrderedDict()
        self._asked: OrderedDict[_Shapes, int] = OrderedDict()

    def __call__(self, inputs: mx.array, parts: Rows[Part]) -> mx.array | None:
        """The logits `[rows, vocabulary]`, lazy, after each row's last token `[rows, 1]`, which its caches take in. None if the
        step is left to the plain way, with the caches' content as it was."""
        caches = [cache for part in parts for cache in part.caches]
        if not all(self._pays(part, len(parts)) for part in parts) or not all(map(ready, caches)):
            return None
        arrays: list[mx.array] = []
        shapes = tuple([_prepared(part, arrays) for part in parts])
        step = self._step(shapes, parts)
        if step is None:
            return None
        spare = [shape.rows - len(part.lengths) for shape, part in zip(shapes, parts, strict=True)]
        try:
            logits, changed = step(*_filled_up(inputs, parts, spare), arrays)
        except Exception:
            _LOG.warning("The decode step can't be compiled and runs without", exc_info=True)
            self.compiles = Compiles()
            return None
        # Nothing but the graph may hold the old arrays when it runs.
        del arrays
        source = iter(changed)
        for cache in caches:
            _store(cache, source)
        return _without(logits, parts, spare) if any(spare) else logits

    def _pays(self, part: Part, of: int) -> bool:
        """Whether to compile a step of so many parts, as far as this one goes."""
        limit = self.compiles.together
        if len(part.lengths) == 1:
            alone = self.compiles.alone
            limit = alone if of == 1 else min(limit, max(alone, _LONG_ALONE))
        return min(part.lengths) > 0 and max(part.lengths) < limit

    def _step(self, shapes: _Shapes, parts: Rows[Part]) -> Callable[..., tuple[mx.array, list[mx.array]]] | None:
        step = self._traced.get(shapes)
        if step is not None:
            self._traced.move_to_end(shapes)
            return step
        asked = self._asked.pop(shapes, 0) + 1
        if asked < self._settled:
            self._asked[shapes] = asked
            _drop_oldest(self._asked)
            return None
        layers = [[_blank(cache) for cache in part.caches] for part in parts]
        step = self._traced[shapes] = mx.compile(_Step(self._model, layers, shapes).run)
        _drop_oldest(self._traced)
        return step


def plain_step(model: Callable[..., mx.array], inputs: mx.array, parts: Rows[Part]) -> mx.array:
    """A step without compiling: logits `[rows, width, vocabulary]` after each row's tokens `[rows, width]`."""
    for part in parts:
        if any(isinstance(cache, SlotKV | CacheList) for cache in part.caches):
            positions = Positions.of(part.lengths, inputs.shape[1])
            for cache in part.caches:
                slots.begin(cache, positions)
    offset = mx.array([length for part in parts for length in part.lengths], dtype=mx.int32)
    return through(model, inputs, [part.caches for part in parts], [len(part.lengths) for part in parts], offset)


def _drop_oldest(entries: OrderedDict[Any, Any]) -> None:
    while len(entries) > _KEPT:
        entries.popitem(last=False)


def _filled_up(inputs: mx.array, parts: Rows[Part], spare: Rows[int]) -> tuple[mx.array, mx.array]:
    """Last tokens `[rows, 1]` and lengths `[rows]` with so many rows more of each part, in slots that are not in use."""
    lengths = [length for part, more in zip(parts, spare, strict=True) for length in [*part.lengths, *[0] * more]]
    if any(spare):
        own = ranges([len(part.lengths) for part in parts])
        inputs = mx.concatenate(
            [mx.pad(inputs[rows], [(0, more), (0, 0)]) for rows, more in zip(own, spare, strict=True)]
        )
    return inputs, mx.array(lengths, dtype=mx.int32)


def _without(logits: mx.array, parts: Rows[Part], spare: Rows[int]) -> mx.array:
    """The logits of the parts' own rows."""
    counts = [len(part.lengths) for part in parts]
    all_rows = ranges([count + more for count, more in zip(counts, spare, strict=True)])
    return mx.concatenate([logits[rows][:count] for rows, count in zip(all_rows, counts, strict=True)])


class _Step:
    """What is traced. layers: each part's empty caches, of each layer's kind."""

    def __init__(self, model: Callable[..., mx.array], layers: list[Caches], shapes: _Shapes) -> None:
        self._model = model
        self._layers = layers
        self._shapes = shapes

    def run(self, inputs: mx.array, offset: mx.array, arrays: list[mx.array]) -> tuple[mx.array, list[mx.array]]:
        source = iter(arrays)
        counts = [shape.rows for shape in self._shapes]
        parts = []
        for layers, shape, rows in zip(self._layers, self._shapes, ranges(counts), strict=True):
            where = _Where(shape, offset[rows])
            parts.append([_stand_in(layer, source, where) for layer in layers])
        logits = through(self._model, inputs, parts, counts, offset)[:, -1]
        return logits, [array for caches in parts for cache in caches for array in slots.arrays(cache)]


class _Where:
    """Where a part's rows write in a traced step and what they see: `offset`, int32 `[rows]`."""

    def __init__(self, shape: _Shape, offset: mx.array) -> None:
        self.shape = shape
        self.offset = offset
        self.after = offset + 1


class _FixedKV:
    """Stands in for an attention layer's cache, plain or a ring (`window`), while a step is traced. recurs: its shapes come
    again."""

    recurs = True

    def __init__(self, keys: mx.array, values: mx.array, where: _Where, window: int | None) -> None:
        self.keys, self.values = keys, values
        self.offset = where.offset
        self._where = where
        self._window = window
        self._bound = min(where.shape.bound, keys.shape[2])

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        where = self._where
        at = where.offset if self._window is None else where.offset % self._window
        at = at[:, None]
        self.keys, self.values = slots.written(self.keys, keys, at), slots.written(self.values, values, at)
        self.offset = where.after
        return self.keys_and_values()

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        count = self._where.shape.rows
        return self.keys[:count, :, : self._bound], self.values[:count, :, : self._bound]

    def make_mask(self, n: int, return_array: bool = False, window_size: int | None = None) -> mx.array | None:
        """Bool `[rows, 1, 1, bound]`, or None where every row sees all that is there."""
        offset = self._where.offset[:, None]
        index = mx.arange(self._bound)
        if self._window is None:
            mask = index <= offset
            if window_size is not None:
                mask = mask & (index > offset - window_size)
            return mask[:, None, None]
        window = min(window_size or self._window, self._window)
        if self._where.shape.full and window == self._window and not return_array:
            return None
        age = (offset - index) % self._window
        return ((age < window) & (age <= offset))[:, None, None]


def _prepared(part: Part, arrays: list[mx.array]) -> _Shape:
    """Brings a part's caches into the form that a step works on. Their arrays are added to `arrays`."""
    count, longest, first = len(part.lengths), max(part.lengths) + 1, len(arrays)
    for cache in part.caches:
        _make_room(cache, count, longest)
        arrays += slots.arrays(cache)
    own = arrays[first:]
    # A few rows more than there are, where there are slots for them: so a join or a leave hardly ever makes a new shape.
    rows = min(slots.rounded(count), *map(len, own))
    full = min(part.lengths) >= max(map(_window, part.caches))
    return _Shape(rows, _rounded(longest), full, (own[0].shape, own[-1].shape))


def ready(cache: Any) -> bool:
    """Whether a layer's cache is of a kind that can be compiled, and holds arrays."""
    kind = type(cache)
    if kind is KVCache or kind is SlotKV or kind is SlotRing:
        return cache.keys is not None
    if kind is RotatingKVCache:
        return cache.keys is not None and not cache.keep
    if kind is CacheList:
        return all(map(ready, cache.caches))
    if kind is ArraysCache:
        return all(array is not None for array in cache.cache) and cache.lengths is None and cache.left_padding is None
    return False


def _blank(cache: Any) -> Any:
    """What a trace needs to know of a cache, without its arrays."""
    if type(cache) is CacheList:
        return CacheList(*(_blank(part) for part in cache.caches))
    if type(cache) is SlotKV:
        return SlotKV()
    return SlotRing(cache.window) if type(cache) is SlotRing else slots.slots_for(cache)


def _stand_in(blank: Any, source: Iterator[mx.array], where: _Where) -> Any:
    if type(blank) is CacheList:
        return CacheList(*(_stand_in(part, source, where) for part in blank.caches))
    if type(blank) is ArraysCache:
        own = ArraysCache(len(blank.cache))
        own.cache = [next(source) for _ in blank.cache]
        return own
    return _FixedKV(next(source), next(source), where, blank.window if type(blank) is SlotRing else None)


def _store(cache: Any, source: Iterator[mx.array]) -> None:
    """The arrays that came out of a step, and with them a row's own cache one token longer."""
    kind = type(cache)
    if kind is CacheList:
        for part in cache.caches:
            _store(part, source)
    elif kind is ArraysCache:
        cache.cache = [next(source) for _ in cache.cache]
    else:
        cache.keys, cache.values = next(source), next(source)
        if kind is KVCache:
            cache.offset += 1
        elif kind is RotatingKVCache:
            cache._idx = cache.offset % cache.max_size + 1
            cache.offset += 1


def _window(cache: Any) -> int:
    """The tokens after which a cache is full; 0 if it never is."""
    kind = type(cache)
    if kind is CacheList:
        return max(map(_window, cache.caches))
    return cache.window if kind is SlotRing else cache.max_size if kind is RotatingKVCache else 0


def _make_room(cache: Any, count: int, longest: int) -> None:
    """Bring a cache of `count` rows into the form that a step works on, with room for `longest` tokens of each."""
    kind = type(cache)
    if kind is KVCache:
        needed, capacity = _rounded(longest), cache.keys.shape[2]
        if capacity < needed or capacity % _STEP:
            cache.keys, cache.values = _fitted(cache.keys, needed), _fitted(cache.values, needed)
    elif kind is RotatingKVCache:
        _turn(cache, min(_rounded(longest), cache.max_size))
    elif kind is CacheList:
        for part in cache.caches:
            _make_room(part, count, longest)
    elif kind is not ArraysCache:
        cache.make_room(count, longest)


def _turn(cache: RotatingKVCache, capacity: int) -> None:
    """Token p of a row's own window to index p % window, where it is not there already."""
    held = min(cache.offset, cache.max_size)
    turned = (cache.offset - 1) % cache.max_size + 1
    if cache._idx == turned and cache.keys.shape[2] == capacity:
        return
    ordered = [cache._temporal_order(array)[:, :, -held:] for array in (cache.keys, cache.values)]
    if held == cache.max_size:
        cache.keys, cache.values = (mx.roll(array, cache.offset % held, 2) for array in ordered)
    else:
        cache.keys, cache.values = (_fitted(array, capacity) for array in ordered)
    cache._idx = turned


def _rounded(length: int) -> int:
    return -(-length // _STEP) * _STEP


def _fitted(array: mx.array, capacity: int) -> mx.array:
    """A copy of `[1, heads, length, dim]` with another capacity."""
    array = array[:, :, :capacity]
    return mx.pad(array, [(0, 0), (0, 0), (0, capacity - array.shape[2]), (0, 0)])
