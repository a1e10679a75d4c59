"""KV caches for rows that decode together.

A slot cache stands in for one layer's cache while a batch decodes, one token a row or, to verify drafts, several. It
holds `[slots, heads, capacity, dim]` tensors; a row owns a slot, its keys start at position 0, and each row is at its own
position. So a row joins by writing its own slot and leaves by being forgotten: no other row's keys move. mlx-lm's models
need of a cache: `offset`, `update_and_fetch`, `make_mask`.

State-space and gated-delta layers keep mlx-lm's ArraysCache with a batch axis: their state is one array a row, made
anew at each step anyway."""

from __future__ import annotations

import copy
from typing import Any, Final

import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.models.cache import ArraysCache, CacheList, KVCache, RotatingKVCache

from mlx_server_nano.worker.positions import Positions

GROWTH: Final = 256  # tokens by which caches grow
_SPARE: Final = 2048  # key positions in slots that are not in use, where slots would else be cut to the rows


class SlotKV:
    """Slots of plain attention: row r's token p lies at `[r, :, p]`."""

    def __init__(self) -> None:
        # `[slots, heads, capacity, dim]`, made when the first row comes and the model's shapes are known.
        self.keys: Any = None
        self.values: Any = None
        self.offset: mx.array = mx.array(0)
        self._positions: Positions = Positions.of([0])

    def begin(self, positions: Positions) -> None:
        """Prepare for a step of these rows; makes room for its tokens."""
        self._positions = positions
        self.offset = positions.offset
        self.make_room(len(positions.lengths), self._longest())

    def make_room(self, count: int, longest: int) -> None:
        """For `count` rows, all those in use, of at most `longest` tokens."""
        capacity = self._capacity_for(self._index_capacity(longest))
        if capacity > self._room[1]:
            self._resize(self._kept(count, capacity), capacity)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write `[rows, heads, width, dim]` at each row's position; return what the rows attend to, `[rows, heads, length,
        dim]`."""
        self.keys, self.values = self._stored((self.keys, keys), (self.values, values))
        return self.keys_and_values()

    def _stored(self, *pairs: tuple[mx.array, mx.array]) -> list[mx.array]:
        """Each first array, `[slots, heads, capacity, ...]`, with the second, `[rows, heads, width, ...]`, written into it."""
        positions = self._positions
        self.offset = positions.after
        if not positions.level:
            at_each = self._indices(positions.each)
            return [written(mine, new, at_each) for mine, new in pairs]
        count, at = len(positions.lengths), self._index(positions.lengths[0])
        for mine, new in pairs:
            mine[:count, :, at : at + positions.width] = new
        return [mine for mine, _ in pairs]

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        count, length = len(self._positions.lengths), self._used()
        return self.keys[:count, :, :length], self.values[:count, :, :length]

    def make_mask(self, n: int, return_array: bool = False, window_size: int | None = None) -> mx.array | None:
        """Bool `[rows, 1, width, length]`, or None where every row sees all that is there."""
        positions, used = self._positions, self._used()
        whole = window_size is None or used <= window_size
        if positions.width == 1 and positions.level and not return_array and whole:
            return None
        index, at_each = mx.arange(used), positions.each[:, :, None]
        mask = index <= at_each
        if window_size is not None:
            mask = mask & (index > at_each - window_size)
        return mask[:, None]

    def put(self, slot: int, cache: Any) -> None:
        """Copy a row's own cache (batch of one) into a slot, which may be one past the last."""
        keys, values = cache.keys_and_values()
        self._write(slot, keys, values, 0, cache.offset)

    def move(self, source: int, target: int) -> None:
        for array in arrays(self):
            array[target] = array[source]

    def extract(self, slot: int, length: int) -> Any:
        """A row's tokens as a cache of its own."""
        return _kv_cache(self.keys[slot : slot + 1, :, :length], self.values[slot : slot + 1, :, :length])

    def shrink(self, count: int, length: int, tight: bool) -> None:
        """Give memory back where a quarter of it would do for `count` rows of at most `length` tokens; tight: in any case."""
        slots, capacity = self._room
        needed = self._index_capacity(_with_reserve(length, GROWTH))
        if tight or 4 * count * needed <= slots * capacity:
            self._resize(count if tight else rounded(2 * count), needed)

    def growth(self, count: int, length: int) -> int:
        """Bytes that are added for `count` slots, all those in use among them, of `length` tokens."""
        slots, capacity = self._room
        grown = self._capacity_for(self._index_capacity(length))
        kept = self._kept(count, grown) if grown > capacity else slots
        return (max(kept, self._slots_for(count)) * grown - slots * capacity) * token_bytes(self)

    def _slots_for(self, count: int) -> int:
        slots = self._room[0]
        return max(count, 2 * slots) if count > slots else min(count, slots)

    def _kept(self, count: int, capacity: int) -> int:
        """Slots for these rows where all are copied anyway: not those that are not in use, but for a few."""
        few = rounded(count)
        return min(self._room[0], few) if (few - count) * capacity <= _SPARE else count

    def _capacity_for(self, needed: int) -> int:
        """With some in reserve where it is too little now."""
        capacity = self._room[1]
        if needed <= capacity:
            return capacity
        return self._index_capacity(_with_reserve(needed, max(GROWTH, needed // 8)))

    @property
    def _room(self) -> tuple[int, int]:
        """Slots and capacity."""
        held = arrays(self)[0]
        return held.shape[0], held.shape[2]

    def _resize(self, slots: int, capacity: int) -> None:
        self.keys, self.values = tree_map(lambda array: _resized(array, slots, capacity), (self.keys, self.values))

    def _write(self, slot: int, keys: Any, values: Any, start: int, length: int) -> None:
        if self.keys is None:
            capacity = self._index_capacity(_with_reserve(start + length, GROWTH))
            count = max(slot + 1, 2)
            self.keys, self.values = tree_map(lambda array: _empty(array, count, capacity), (keys, values))
        (slots, capacity), grown = self._room, self._capacity_for(start + length)
        if slot >= slots or grown > capacity:
            self._resize(max(slots, self._slots_for(slot + 1)), grown)
        for mine, new in zip(arrays(self), _leaves(keys, values), strict=True):
            mine[slot : slot + 1, :, start : start + length] = new

    def _longest(self) -> int:
        return max(self._positions.lengths) + self._positions.width

    def _used(self) -> int:
        return self._longest()

    def _index_capacity(self, length: int) -> int:
        return length

    def _index(self, position: int) -> int:
        return position

    def _indices(self, position: mx.array) -> mx.array:
        return position


class SlotRing(SlotKV):
    """Slots of sliding-window attention: row r's token p lies at `[r, :, p % window]`. Steps are one token wide: a second
    one would be written over keys that the first still looks at."""

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window

    def make_mask(self, n: int, return_array: bool = False, window_size: int | None = None) -> mx.array | None:
        positions, used = self._positions, self._used()
        window = min(window_size or self.window, self.window)
        if not return_array and window == self.window and (positions.level or min(positions.lengths) >= self.window):
            return None
        # The token at ring index i is `age` steps old; ages beyond the row's length have not been written.
        age = (positions.offset[:, None] - mx.arange(used)) % self.window
        return ((age < window) & (age <= positions.offset[:, None]))[:, None, None]

    def put(self, slot: int, cache: Any) -> None:
        length: int = cache.offset
        held = min(length, self.window)
        keys, values = (cache._temporal_order(array)[:, :, -held:] for array in (cache.keys, cache.values))
        turn = (length - held) % self.window
        first = min(held, self.window - turn)
        self._write(slot, keys[:, :, :first], values[:, :, :first], turn, first)
        if first < held:
            self._write(slot, keys[:, :, first:], values[:, :, first:], 0, held - first)

    def extract(self, slot: int, length: int) -> Any:
        """The ring as it lies is what RotatingKVCache makes of a full window; `_idx` is where it writes next."""
        cache = RotatingKVCache(self.window)
        held = min(length, self.window)
        cache.keys = mx.contiguous(self.keys[slot : slot + 1, :, :held])
        cache.values = mx.contiguous(self.values[slot : slot + 1, :, :held])
        cache.offset, cache._idx = length, length if length <= self.window else length % self.window or self.window
        return cache

    def _used(self) -> int:
        return min(super()._used(), self.window)

    def _index_capacity(self, length: int) -> int:
        return min(length, self.window)

    def _index(self, position: int) -> int:
        return position % self.window

    def _indices(self, position: mx.array) -> mx.array:
        return position % self.window


def batchable(cache: Any) -> bool:
    """Whether a layer's own cache can be put into slots: it makes some itself (`quantized`), or is of a known kind. The rows of
    others, mlx-lm's chunked caches among them, run alone."""
    if type(cache) is CacheList:
        return all(batchable(part) for part in cache.caches)
    if type(cache) is RotatingKVCache:
        return cache.keep == 0
    return _makes_slots(cache) or type(cache) in (KVCache, ArraysCache)


def _makes_slots(cache: Any) -> bool:
    return hasattr(cache, "new_slots")


def slots_for(cache: Any) -> Any:
    """An empty slot cache for a layer whose rows have caches like this one."""
    if type(cache) is CacheList:
        return CacheList(*(slots_for(part) for part in cache.caches))
    if _makes_slots(cache):
        return cache.new_slots()
    if type(cache) is RotatingKVCache:
        return SlotRing(cache.max_size)
    return ArraysCache(len(cache.cache)) if type(cache) is ArraysCache else SlotKV()


def begin(slots: Any, positions: Positions) -> None:
    if isinstance(slots, CacheList):
        for part in slots.caches:
            begin(part, positions)
    elif isinstance(slots, SlotKV):
        slots.begin(positions)


def put(slots: Any, slot: int, cache: Any) -> None:
    """Let a row with its own cache take a slot, at most one past the last used one."""
    if isinstance(slots, CacheList):
        for part, own in zip(slots.caches, cache.caches, strict=True):
            put(part, slot, own)
    elif isinstance(slots, SlotKV):
        slots.put(slot, cache)
    else:
        slots.cache = [_put_row(mine, slot, theirs) for mine, theirs in zip(slots.cache, cache.cache, strict=True)]


def move(slots: Any, source: int, target: int) -> None:
    if isinstance(slots, CacheList):
        for part in slots.caches:
            move(part, source, target)
    elif isinstance(slots, SlotKV):
        slots.move(source, target)
    else:
        slots.cache = [_put_row(array, target, array[source : source + 1]) for array in slots.cache]


def shrink(slots: Any, count: int, length: int, *, tight: bool = False) -> None:
    """Only the first `count` slots are in use, for rows of at most `length` tokens. KV slots keep some room, tight: next to
    none; state arrays are cut, as every step makes new ones."""
    if isinstance(slots, CacheList):
        for part in slots.caches:
            shrink(part, count, length, tight=tight)
    elif isinstance(slots, SlotKV):
        slots.shrink(count, length, tight)
    else:
        slots.cache = [None if array is None else array[:count] for array in slots.cache]


def arrays(cache: Any) -> list[mx.array]:
    """The arrays that a cache holds, to be evaluated."""
    if isinstance(cache, CacheList):
        return [array for part in cache.caches for array in arrays(part)]
    if isinstance(cache, ArraysCache):
        return [array for array in cache.cache if array is not None]
    return [] if cache.keys is None else _leaves(cache.keys, cache.values)


def _leaves(keys: Any, values: Any) -> list[mx.array]:
    """Quantized keys are several arrays."""
    return [*keys, *values] if isinstance(keys, tuple | list) else [keys, values]


def _put_row(array: mx.array | None, slot: int, row: mx.array | None) -> mx.array | None:
    if row is None:
        return array
    if array is None:
        return row if slot == 0 else mx.concatenate([mx.zeros((slot, *row.shape[1:]), row.dtype), row])
    if slot >= array.shape[0]:
        return mx.concatenate([array, row])
    array[slot : slot + 1] = row
    return array


def written(array: mx.array, new: mx.array, at: mx.array) -> mx.array:
    """`[slots, heads, capacity, dim]` with `new` `[rows, heads, width, dim]` at these positions, `[rows, width]`. Slots past the
    rows are not in use, and may be written to."""
    # On CUDA steps of eight rows take 0.6 of the time that they take with an update by index arrays, which leaves them alone.
    spare = [(0, array.shape[0] - new.shape[0])]
    if spare != [(0, 0)]:
        new, at = mx.pad(new, [*spare, (0, 0), (0, 0), (0, 0)]), mx.pad(at, [*spare, (0, 0)])
    return mx.put_along_axis(array, mx.broadcast_to(at[:, None, :, None], new.shape), new, axis=2)


def rounded(rows: int) -> int:
    """A few more rows, so that their number takes few values: a compiled step is traced for each."""
    return rows if rows < 3 else -(-rows // 4) * 4


def _with_reserve(length: int, reserve: int) -> int:
    """A capacity for so many tokens and, up to half of it, a reserve: there are few of them, as compiled steps are traced for
    each."""
    step = max(1, GROWTH // 2)
    return (length + reserve) // step * step


def _empty(like: mx.array, slots: int, capacity: int) -> mx.array:
    return mx.zeros((slots, like.shape[1], capacity, like.shape[3]), like.dtype)


def _resized(array: mx.array, slots: int, capacity: int) -> mx.array:
    kept = array[:slots, :, :capacity]
    resized = _empty(array, slots, capacity)
    resized[: kept.shape[0], :, : kept.shape[2]] = kept
    return resized


def fork(cache: Any) -> Any:
    """A second cache with the same content for another row. Nothing is copied until one of them writes: the arrays
    become new handles on shared buffers."""
    twin = copy.copy(cache)
    if isinstance(cache, CacheList):
        twin.caches = tuple(fork(part) for part in cache.caches)
    else:
        twin.__dict__ = tree_map(lambda value: value[...] if isinstance(value, mx.array) else value, vars(cache))
    return twin


def bytes_per_token(cache: Any) -> int:
    """What one more token takes in a layer's cache. State arrays and full windows do not grow."""
    if isinstance(cache, CacheList):
        return sum(bytes_per_token(part) for part in cache.caches)
    return token_bytes(cache) if cuttable(cache) else 0


def token_bytes(cache: Any) -> int:
    """What each token takes that a cache of attention holds, in one row."""
    return sum(array.nbytes // (array.shape[0] * array.shape[2]) for array in arrays(cache))


def extract(slots: Any, slot: int, length: int) -> Any:
    """A row's content as a cache of its own, copied. length: the tokens that the row holds."""
    if isinstance(slots, CacheList):
        return CacheList(*(extract(part, slot, length) for part in slots.caches))
    if isinstance(slots, SlotKV):
        return slots.extract(slot, length)
    own = ArraysCache(len(slots.cache))
    own.cache = [None if array is None else mx.contiguous(array[slot : slot + 1]) for array in slots.cache]
    return own


def cuttable(cache: Any) -> bool:
    """Whether a cache can be cut to any shorter length. Windows and states can't: what they forgot is gone."""
    if type(cache) is CacheList:
        return all(cuttable(part) for part in cache.caches)
    return _makes_slots(cache) or type(cache) is KVCache


def cut_copy(cache: Any, length: int, row: int = 0) -> Any:
    """The first `length` tokens of a cuttable cache, copied. row: of those that it was filled with at once."""
    if isinstance(cache, CacheList):
        return CacheList(*(cut_copy(part, length, row) for part in cache.caches))
    if _makes_slots(cache):
        return cache.first(length, row)
    return _kv_cache(cache.keys[row : row + 1, :, :length], cache.values[row : row + 1, :, :length])


def cut(cache: Any, length: int) -> None:
    """Forget all but the first `length` tokens of a cuttable cache, in place."""
    for part in cache.caches if isinstance(cache, CacheList) else [cache]:
        part.trim(part.offset - length)


def _kv_cache(keys: mx.array, values: mx.array) -> KVCache:
    cache = KVCache()
    cache.keys, cache.values, cache.offset = mx.contiguous(keys), mx.contiguous(values), keys.shape[2]
    return cache
