"""Slot caches against one of mlx-lm's own caches for each row: the same attention, whatever rows come, go and move."""

from __future__ import annotations

import random
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import ArraysCache, CacheList, KVCache, QuantizedKVCache, RotatingKVCache

from mlx_server_nano.worker import slots
from mlx_server_nano.worker.positions import Positions

HEADS, DIM = 2, 4


def random_array(*shape: int) -> mx.array:
    return mx.random.normal(shape)


def filled(cache: Any, length: int, chunks: int = 1) -> Any:
    """A row's own cache with `length` tokens, fed in chunks."""
    for part in np.array_split(np.arange(length), chunks):
        if len(part):
            cache.update_and_fetch(random_array(1, HEADS, len(part), DIM), random_array(1, HEADS, len(part), DIM))
    return cache


def attention(cache: Any, keys: mx.array, values: mx.array, queries: mx.array, **mask_options: Any) -> np.ndarray:
    mask = cache.make_mask(1, **mask_options)
    k, v = cache.update_and_fetch(keys, values)
    return np.array(mx.fast.scaled_dot_product_attention(queries, k, v, scale=1.0, mask=mask))


class Rows:
    """Rows in slots, and the same rows in caches of their own."""

    def __init__(self, make: Any) -> None:
        self._make = make
        self.slots = slots.slots_for(make())
        self.own: list[Any] = []

    @property
    def lengths(self) -> list[int]:
        return [cache.offset for cache in self.own]

    def put(self, slot: int, length: int, chunks: int = 1) -> None:
        cache = filled(self._make(), length, chunks)
        slots.put(self.slots, slot, slots.fork(cache))
        self.own[slot : slot + 1] = [cache]

    def leave(self, slot: int) -> None:
        last = len(self.own) - 1
        if slot != last:
            slots.move(self.slots, last, slot)
        self.own[slot] = self.own[last]
        self.own.pop()
        slots.shrink(self.slots, len(self.own), max(self.lengths, default=0))

    def step(self, **mask_options: Any) -> None:
        n = len(self.own)
        keys, values, queries = (random_array(n, HEADS, 1, DIM) for _ in range(3))
        slots.begin(self.slots, Positions.of(self.lengths))
        mask_options = {"return_array": False, "window_size": None, **mask_options}
        together = attention(self.slots, keys, values, queries, **mask_options)
        for i, cache in enumerate(self.own):
            row = slice(i, i + 1)
            alone = attention(cache, keys[row], values[row], queries[row], **mask_options)
            np.testing.assert_allclose(together[row], alone, atol=1e-5)

    def check_extracted(self, slot: int) -> None:
        """A row that leaves its slot goes on alone as if it had always been."""
        own, extracted = self.own[slot], slots.extract(self.slots, slot, self.lengths[slot])
        assert type(extracted) is type(own) and extracted.offset == own.offset
        own = slots.fork(own)
        for chunk in (1, 1, 3, 1):
            keys, values = (random_array(1, HEADS, chunk, DIM) for _ in range(2))
            queries = random_array(1, HEADS, chunk, DIM)
            results = []
            for cache in (own, extracted):
                mask = cache.make_mask(chunk, return_array=True, window_size=None)
                k, v = cache.update_and_fetch(keys, values)
                results.append(np.array(mx.fast.scaled_dot_product_attention(queries, k, v, scale=1.0, mask=mask)))
            np.testing.assert_allclose(results[0], results[1], atol=1e-5)


WINDOW = 12
KINDS = {
    "plain": KVCache,
    "window": lambda: RotatingKVCache(max_size=WINDOW),
    "large window": lambda: RotatingKVCache(max_size=60),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_rows_attend_as_they_would_alone(monkeypatch, kind: str, seed: int):
    monkeypatch.setattr(slots, "GROWTH", 4)
    mx.random.seed(seed)
    rng = random.Random(seed)
    rows = Rows(KINDS[kind])
    rows.put(0, rng.randint(1, 20))
    for _ in range(60):
        action = rng.random()
        if action < 0.15 and len(rows.own) < 6:
            rows.put(len(rows.own), rng.choice([1, 2, 11, 12, 13, 24, 31]), rng.randint(1, 3))
        elif action < 0.22:
            rows.put(rng.randrange(len(rows.own)), rng.randint(1, 40), rng.randint(1, 3))
        elif action < 0.32 and len(rows.own) > 1:
            rows.leave(rng.randrange(len(rows.own)))
        elif action < 0.37:
            rows.check_extracted(rng.randrange(len(rows.own)))
        else:
            rows.step(window_size=rng.choice([None, WINDOW]) if kind != "large window" else rng.choice([None, 60]))


@pytest.mark.parametrize("kind", KINDS)
def test_level_rows_need_no_mask(kind: str):
    rows = Rows(KINDS[kind])
    for slot in range(3):
        rows.put(slot, 5)
    for _ in range(2 * WINDOW):
        slots.begin(rows.slots, Positions.of(rows.lengths))
        assert rows.slots.make_mask(1) is None
        assert rows.slots.make_mask(1, return_array=True) is not None
        rows.step()


def test_a_full_window_needs_no_mask():
    rows = Rows(KINDS["window"])
    rows.put(0, WINDOW)
    rows.put(1, 3 * WINDOW + 1)
    slots.begin(rows.slots, Positions.of(rows.lengths))
    assert rows.slots.make_mask(1) is None
    rows.step()


def test_a_window_smaller_than_its_cache():
    """A model may ask a ring for less than it holds."""
    mx.random.seed(0)
    rows = Rows(KINDS["window"])
    for slot, length in enumerate((3, WINDOW, 2 * WINDOW + 5)):
        rows.put(slot, length)
    for _ in range(WINDOW + 3):
        slots.begin(rows.slots, Positions.of(rows.lengths))
        mask = np.array(rows.slots.make_mask(1, window_size=5))[:, 0, 0]
        assert mask.sum(axis=-1).tolist() == [min(5, length + 1) for length in rows.lengths]
        rows.step()


def capacity(rows: Rows) -> tuple[int, int]:
    return rows.slots.keys.shape[0], rows.slots.keys.shape[2]


def test_slots_that_are_not_in_use_do_not_grow():
    rows = Rows(KVCache)
    for slot in range(8):
        rows.put(slot, 20)
    while len(rows.own) > 3:
        rows.leave(0)
    for _ in range(300):
        rows.own[0].offset += 1  # only the lengths matter here
        slots.begin(rows.slots, Positions.of(rows.lengths))
    assert capacity(rows)[0] <= 4


def test_slots_give_their_memory_back_when_most_rows_have_left():
    mx.random.seed(1)
    rows = Rows(KVCache)
    for slot in range(9):
        rows.put(slot, 3000 if slot == 4 else 20)
    assert capacity(rows) >= (9, 3000)
    rows.leave(4)
    assert capacity(rows)[1] < 1000, "the long row has left"
    while len(rows.own) > 2:
        rows.leave(1)
    assert capacity(rows)[0] <= 4
    rows.step()
    for slot in range(2, 5):
        rows.put(slot, 10)
    rows.step()


def test_state_arrays_follow_their_rows():
    together = ArraysCache(2)
    for slot in range(3):
        own = ArraysCache(2)
        own.cache = [mx.full((1, 2, 2), slot), mx.full((1, 3), 10 * slot)]
        slots.put(together, slot, own)
    slots.move(together, 2, 0)
    slots.shrink(together, 2, 5)
    assert np.array(together[1][:, 0]).tolist() == [20, 10]
    one = slots.extract(together, 1, 5)
    assert type(one) is ArraysCache and np.array(one[0]).tolist() == [[[1, 1], [1, 1]]]
    slots.put(together, 1, one)
    slots.put(together, 2, one)
    assert np.array(together[0][:, 0, 0]).tolist() == [2, 1, 1]


def test_a_list_of_caches_is_handled_part_by_part():
    def make() -> Any:
        return CacheList(KVCache(), ArraysCache(1))

    together = slots.slots_for(make())
    for slot in range(2):
        own = make()
        filled(own[0], 4 + slot)
        own[1][0] = mx.full((1, 2), slot)
        slots.put(together, slot, own)
    slots.begin(together, Positions.of([4, 5]))
    assert together[0].update_and_fetch(random_array(2, HEADS, 1, DIM), random_array(2, HEADS, 1, DIM))[0].shape[2] == 6
    slots.move(together, 1, 0)
    slots.shrink(together, 1, 6)
    one = slots.extract(together, 0, 6)
    assert one[0].offset == 6 and np.array(one[1][0]).tolist() == [[1, 1]]
    assert len(slots.arrays(together)) == 3


@pytest.mark.parametrize(
    ("cache", "batchable", "cuttable"),
    [
        (KVCache(), True, True),
        (RotatingKVCache(8), True, False),
        (RotatingKVCache(8, keep=4), False, False),
        (ArraysCache(2), True, False),
        (CacheList(KVCache(), KVCache()), True, True),
        (CacheList(KVCache(), ArraysCache(1)), True, False),
        (QuantizedKVCache(), False, False),
        (CacheList(KVCache(), QuantizedKVCache()), False, False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_can_be_batched_and_cut(cache: Any, batchable: bool, cuttable: bool):
    assert slots.batchable(cache) == batchable
    assert slots.cuttable(cache) == cuttable


def fetched(cache: Any) -> list[np.ndarray]:
    if isinstance(cache, ArraysCache):
        return [np.array(array) for array in cache.cache]
    if isinstance(cache, QuantizedKVCache):
        return [np.array(array) for part in cache.keys_and_values() for array in part]
    return [np.array(array) for array in cache.keys_and_values()]


@pytest.mark.parametrize(
    "make", [KVCache, lambda: RotatingKVCache(6), lambda: QuantizedKVCache(32, 8)], ids=["plain", "window", "q8"]
)
def test_a_fork_and_its_origin_go_their_own_ways(make: Any):
    mx.random.seed(2)

    def token() -> mx.array:
        return random_array(1, HEADS, 1, 32)

    origin = make()
    for _ in range(8):
        origin.update_and_fetch(token(), token())
    twin = slots.fork(origin)
    before = fetched(origin)
    for _ in range(5):
        twin.update_and_fetch(token(), token())
    for a, b in zip(fetched(origin), before, strict=True):
        np.testing.assert_array_equal(a, b)
    held = fetched(twin)
    for _ in range(3):
        origin.update_and_fetch(token(), token())
    for a, b in zip(fetched(twin), held, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_fork_of_states_goes_its_own_way():
    origin = CacheList(ArraysCache(1), KVCache())
    origin[0][0] = mx.zeros((1, 2))
    twin = slots.fork(origin)
    twin[0][0] = mx.ones((1, 2))
    filled(twin[1], 3)
    assert np.array(origin[0][0]).tolist() == [[0, 0]] and origin[1].offset == 0


def test_cutting():
    cache = filled(KVCache(), 10)
    keys = np.array(cache.keys_and_values()[0])
    copied = slots.cut_copy(cache, 6)
    slots.cut(cache, 4)
    np.testing.assert_array_equal(np.array(copied.keys_and_values()[0]), keys[:, :, :6])
    np.testing.assert_array_equal(np.array(cache.keys_and_values()[0]), keys[:, :, :4])
    filled(cache, 300)
    assert copied.offset == 6 and copied.keys.shape[2] == 6, "a copy holds no more than it says"


def test_bytes_per_token():
    assert slots.bytes_per_token(filled(KVCache(), 3)) == 2 * HEADS * DIM * 4
    assert slots.bytes_per_token(filled(RotatingKVCache(8), 3)) == 0
    assert slots.bytes_per_token(CacheList(filled(KVCache(), 3), filled(KVCache(), 3))) == 4 * HEADS * DIM * 4
    assert slots.bytes_per_token(ArraysCache(2)) == 0


def test_a_row_that_comes_when_all_have_gone():
    cache = KVCache()
    cache.update_and_fetch(mx.ones((1, 2, 5, 4)), mx.ones((1, 2, 5, 4)))
    shared = slots.slots_for(cache)
    slots.put(shared, 0, cache)
    slots.shrink(shared, 0, 0)
    slots.put(shared, 0, cache)
    assert slots.extract(shared, 0, 5).keys.sum().item() == 40
