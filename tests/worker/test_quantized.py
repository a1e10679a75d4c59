"""Quantized KV caches: the same attention in slots as alone, the same answers in any crowd, and the bytes that they save."""

from __future__ import annotations

import random
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.base import scaled_dot_product_attention
from mlx_lm.models.cache import ArraysCache, CacheList, KVCache, QuantizedKVCache, RotatingKVCache

from mlx_server_nano.errors import UnsupportedModelError
from mlx_server_nano.worker import slots
from mlx_server_nano.worker.loader import LoadedModel
from mlx_server_nano.worker.positions import Positions
from mlx_server_nano.worker.quantized import QuantizedKV, quantized
from tests.worker import harness
from tests.worker.harness import Driver
from tests.worker.test_engine import prompt

HEADS, DIM = 2, 64
SMALL = {"head_dim": 32}


def tokens(rows: int, count: int) -> list[mx.array]:
    return [mx.random.normal((rows, HEADS, count, DIM)) for _ in range(3)]


def attend(cache: Any, queries: mx.array, keys: mx.array, values: mx.array) -> np.ndarray:
    mask = cache.make_mask(queries.shape[2], return_array=False, window_size=None)
    held = cache.update_and_fetch(keys, values)
    return np.array(scaled_dot_product_attention(queries + 0, *held, cache, 0.125, mask))


@pytest.mark.parametrize("bits", [4, 8])
def test_a_row_is_what_mlx_lms_quantized_cache_makes_it(bits: int):
    """In wide passes and narrow ones, over the ends of its steps."""
    mx.random.seed(0)
    ours, theirs = QuantizedKV(bits), QuantizedKVCache(64, bits)
    for count in (1, 40, 300, 2, 1, 31, 1):
        step = tokens(1, count)
        np.testing.assert_allclose(attend(ours, *step), attend(theirs, *step), atol=1e-4)
    assert ours.offset == theirs.offset == 376
    assert ours.trim(70) == theirs.trim(70)
    step = tokens(1, 3)
    np.testing.assert_allclose(attend(ours, *step), attend(theirs, *step), atol=1e-4)


@pytest.mark.parametrize("bits", [4, 8])
def test_rows_in_slots_attend_as_they_would_alone(monkeypatch, bits: int):
    monkeypatch.setattr(slots, "GROWTH", 4)
    mx.random.seed(bits)
    rng = random.Random(bits)
    together = QuantizedKV(bits).new_slots()
    own: list[QuantizedKV] = []
    for _ in range(50):
        action = rng.random()
        if not own or (action < 0.2 and len(own) < 5):
            row = QuantizedKV(bits)
            _, keys, values = tokens(1, rng.choice([1, 3, 17, 40]))
            row.update_and_fetch(keys, values)
            slots.put(together, len(own), slots.fork(row))
            own.append(row)
        elif action < 0.3 and len(own) > 1:
            gone = rng.randrange(len(own))
            slots.move(together, len(own) - 1, gone)
            own[gone] = own[-1]
            own.pop()
            slots.shrink(together, len(own), max(row.offset for row in own), tight=rng.random() < 0.5)
        elif action < 0.4:
            at = rng.randrange(len(own))
            own[at] = slots.extract(together, at, own[at].offset)
        else:
            width = rng.choice([1, 1, 1, 4])
            slots.begin(together, Positions.of([row.offset for row in own], width))
            queries, keys, values = tokens(len(own), width)
            found = attend(together, queries, keys, values)
            for i, row in enumerate(own):
                one = slice(i, i + 1)
                np.testing.assert_allclose(found[one], attend(row, queries[one], keys[one], values[one]), atol=1e-4)


def test_cutting_and_copying():
    cache = QuantizedKV(8)
    cache.update_and_fetch(*tokens(1, 50)[1:])
    whole = [np.array(part) for packed in cache.keys_and_values() for part in packed]
    copied = slots.cut_copy(cache, 20)
    slots.cut(cache, 30)
    for one in (copied, cache):
        for part, old in zip(slots.arrays(one), whole, strict=True):
            np.testing.assert_array_equal(np.array(part)[:, :, :20], old[:, :, :20])
    assert (cache.offset, copied.offset, copied.keys[0].shape[2]) == (30, 20, 20)
    fresh = QuantizedKV(8)
    fresh.state = copied.state
    step = tokens(1, 1)
    np.testing.assert_array_equal(attend(fresh, *step), attend(copied, *step))


def test_only_caches_of_plain_attention_are_replaced():
    caches = [KVCache(), RotatingKVCache(8), ArraysCache(2), CacheList(KVCache(), ArraysCache(1))]
    found = quantized(caches, 4)
    assert [type(cache) for cache in found] == [QuantizedKV, RotatingKVCache, ArraysCache, CacheList]
    assert type(found[3][0]) is QuantizedKV
    assert quantized(caches, None) == quantized(caches, 16) == caches


# Models.


def load(tiny_folder: Any, arch: str, bits: int | None, **settings: Any) -> LoadedModel:
    return harness.load(tiny_folder(arch, **settings), kv_bits=bits)


@pytest.mark.parametrize(
    ("arch", "bits"), [("qwen3", 8), ("qwen3", 4), ("qwen3_moe", 4), ("gemma3_text", 8), ("qwen3_next", 4)]
)
def test_a_row_says_the_same_alone_and_in_any_crowd(tiny_folder, arch: str, bits: int):
    loaded = load(tiny_folder, arch, bits, **SMALL)
    assert loaded.info.batchable
    rng = random.Random(bits)
    shared = prompt(rng, 60)
    asked = [(prompt(rng, n), limit) for n, limit in ((3, 30), (40, 12), (90, 20))]
    asked += [(shared + prompt(rng, n), 15) for n in (5, 30)]
    asked.append((asked[2][0] + prompt(rng, 4), 10))
    expected = []
    for ids, limit in asked:
        alone = Driver(loaded, prefix_cache_bytes=0, prefill_chunk=64)
        request_id = alone.tokens(ids, max_tokens=limit)
        alone.run()
        expected.append(alone.answers()[request_id, 0].text)
    crowd = Driver(loaded, prefill_chunk=64, busy_prefill_chunk=32)
    found = []
    for ids, limit in asked:
        found.append(crowd.tokens(ids, max_tokens=limit))
        crowd.turn(rng.choice([0, 3, 9]))
    crowd.run()
    again = [crowd.tokens(ids, max_tokens=limit) for ids, limit in asked]
    crowd.run()
    assert not crowd.failures()
    for requests in (found, again):
        assert [crowd.answers()[request_id, 0].text for request_id in requests] == expected
    assert sum(event.cached_tokens for event in crowd.started().values()) > 200


@pytest.mark.parametrize(("bits", "per_value"), [(8, 8 / 8 + 8 / 64), (4, 4 / 8 + 8 / 64)])
def test_bytes(tiny_folder, bits: int, per_value: float):
    """A scale and a bias of single precision for each group of 64."""
    loaded = load(tiny_folder, "qwen3", bits, head_dim=64)
    values = 2 * 2 * 2 * 64  # layers, keys and values, heads, dimension
    assert loaded.kv_bytes_per_token == loaded.row_cost.per_token == values * per_value
    driver = Driver(loaded)
    driver.tokens(prompt(random.Random(0), 256), max_tokens=1)
    driver.run()
    assert 255 * values * per_value <= driver.engine._reuse.nbytes <= 512 * values * per_value


@pytest.mark.parametrize(("bits", "most"), [(8, 0.03), (4, 0.5)])
def test_logits_stay_near_those_of_full_precision(tiny_folder, bits: int, most: float):
    loaded = load(tiny_folder, "qwen3", bits, head_dim=64)
    ids = mx.array([prompt(random.Random(1), 200)])

    def logits(caches: list[Any]) -> np.ndarray:
        loaded.model(ids[:, :-1], cache=caches)
        return np.array(loaded.model(ids[:, -1:], cache=caches)[0, -1])

    full = logits(loaded.full_caches())
    assert np.abs(logits(loaded.new_caches()) - full).std() < most * full.std()


def test_a_model_that_can_not_read_them_is_refused(tiny_folder, monkeypatch):
    folder = tiny_folder("llama")
    original = harness.load(folder).model.layers[0].self_attn.__class__

    def latent(self: Any, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        keys, _ = cache.update_and_fetch(x[:, None], x[:, None])
        result: mx.array = keys.swapaxes(-1, -2).sum() + x
        return result

    monkeypatch.setattr(original, "__call__", latent)
    harness.load(folder)
    with pytest.raises(UnsupportedModelError, match=r"--kv-bits 8.*kv-bits = 16"):
        harness.load(folder, kv_bits=8)


def test_a_head_that_no_group_divides_is_refused(tiny_folder):
    with pytest.raises(UnsupportedModelError, match="--kv-bits 4"):
        load(tiny_folder, "qwen3", 4)  # 16 values
