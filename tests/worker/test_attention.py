"""Attention of plain products, as passes whose shape is used once get it on CUDA."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import base
from mlx_lm.models.cache import KVCache, QuantizedKVCache

from mlx_server_nano.worker import attention
from mlx_server_nano.worker.compiled import _FixedKV, _Shape, _Where
from mlx_server_nano.worker.quantized import QuantizedKV
from tests.worker.conftest import Tiny
from tests.worker.test_engine import crowd

WIDTH, LENGTH = 5, 37
MASKS: dict[str, Any] = {
    "none": lambda heads: None,
    "causal": lambda heads: "causal",
    "of the shape": lambda heads: mx.random.uniform(shape=(WIDTH, LENGTH)) < 0.8,
    "for each row": lambda heads: mx.random.uniform(shape=(2, 1, WIDTH, LENGTH)) < 0.8,
    "for each head": lambda heads: mx.random.normal((2, heads, WIDTH, LENGTH)),
    "for all rows": lambda heads: mx.random.normal((1, WIDTH, LENGTH)),
}


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Choose as on CUDA; gives the shapes of the queries that came through plain products."""
    shapes: list[tuple[int, ...]] = []
    plain = attention.plain

    def noted(queries: mx.array, *rest: Any) -> mx.array:
        shapes.append(queries.shape)
        return plain(queries, *rest)

    monkeypatch.setattr(attention, "plans_shapes", lambda: True)
    monkeypatch.setattr(attention, "plain", noted)
    return shapes


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (4, 1)])
def test_is_what_the_fused_kernels_compute(heads: int, kv_heads: int, mask: str):
    mx.random.seed(3)
    queries = mx.random.normal((2, heads, WIDTH, 16))
    keys, values = (mx.random.normal((2, kv_heads, LENGTH, 16)) for _ in range(2))
    made = MASKS[mask](heads)
    expected = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=0.3, mask=made)
    np.testing.assert_allclose(attention.plain(queries, keys, values, 0.3, made), expected, atol=1e-5)


@pytest.mark.parametrize("arch", ["qwen3", "llama", "gemma3_text", "qwen3_next"])
def test_logits_stay_the_same(tiny: Tiny, arch: str, on_cuda: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch):
    loaded = tiny(arch)
    on_cuda.clear()
    ids = [5 + 7 * i % 900 for i in range(90)]

    def logits() -> np.ndarray:
        caches = loaded.new_caches()
        parts = [loaded.model(mx.array([ids[at : at + 30]]), cache=caches) for at in range(0, 90, 30)]
        return np.array(mx.concatenate(parts, axis=1).astype(mx.float32))

    chosen = logits()
    assert {shape[2] for shape in on_cuda} == {30}
    monkeypatch.undo()
    np.testing.assert_allclose(chosen, logits(), atol=2e-4)


@pytest.mark.parametrize("arch", ["qwen3", "gemma3_text"])
def test_answers_are_right_in_a_crowd(tiny: Tiny, arch: str, on_cuda: list[tuple[int, ...]]):
    """Prompts in portions, drafts, rows alone and in slots; steps of one token are fused as ever."""
    crowd(tiny(arch), 5, speculation=True)
    assert on_cuda and min(shape[2] for shape in on_cuda) > 1


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (4, 1)])
def test_heads_are_folded_where_the_shapes_of_a_step_under_a_mask_come_again(
    heads: int, kv_heads: int, on_cuda: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
):
    mx.random.seed(4)
    queries = mx.random.normal((3, heads, 1, 16))
    keys, values = (mx.random.normal((3, kv_heads, LENGTH, 16)) for _ in range(2))
    mask = (mx.arange(LENGTH) <= mx.array([[0], [20], [LENGTH - 1]]))[:, None, None]
    expected = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=0.3, mask=mask)
    np.testing.assert_allclose(attention.folded(queries, keys, values, 0.3, mask), expected, atol=1e-5)

    chosen: list[Any] = []

    def choose(*given: Any) -> mx.array:
        chosen.append(given)
        return expected

    monkeypatch.setattr(attention, "folded", choose)
    recurring = _FixedKV(keys, values, _Where(_Shape(3, LENGTH, False, ()), mx.array([0, 20, 36])), None)
    for cache, found in ((recurring, mask), (recurring, None), (KVCache(), mask)):
        attention.attention(queries, keys, values, cache, 0.3, found)
    assert len(chosen) == 1 and not on_cuda


def test_many_scores_stay_with_the_fused_kernels(on_cuda: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attention, "_MOST_SCORES", 2 * 4 * WIDTH * LENGTH)
    queries, keys = mx.random.normal((2, 4, WIDTH, 16)), mx.random.normal((2, 4, LENGTH, 16))
    attention.attention(queries, keys, keys, KVCache(), 0.3, None)
    assert len(on_cuda) == 1
    longer = mx.concatenate([keys, keys], axis=2)
    attention.attention(queries, longer, longer, KVCache(), 0.3, None)
    attention.attention(queries[:, :, :1], keys, keys, KVCache(), 0.3, None)
    assert len(on_cuda) == 1


def test_quantized_keys_are_unpacked_on_cuda(on_cuda: list[tuple[int, ...]]):
    """MLX has no product for them there."""
    ours, theirs = QuantizedKV(8), QuantizedKVCache(64, 8)
    for width in (40, 1, 3):
        queries, keys, values = (mx.random.normal((1, 2, width, 64)) for _ in range(3))
        held = ours.update_and_fetch(keys, values)
        assert isinstance(held[0], mx.array)
        found = attention.attention(queries, *held, ours, 0.125, "causal" if width > 1 else None)
        packed = theirs.update_and_fetch(keys, values)
        expected = base.scaled_dot_product_attention(
            queries + 0, *packed, theirs, 0.125, "causal" if width > 1 else None
        )
        np.testing.assert_allclose(found, expected, atol=1e-4)
