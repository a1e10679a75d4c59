"""Cosines and sines are computed once for all layers, and what comes out is the same, bit for bit."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx import nn

from mlx_server_nano.models.catalog import BUILT_IN, DEMO
from mlx_server_nano.worker.rope import share_tables
from tests.worker.harness import Driver, load

pytestmark = pytest.mark.skipif(mx.default_device() != mx.cpu, reason="GPUs have a kernel for it")

offsets = st.integers(0, 200) | st.integers(0, 1 << 17)


@pytest.fixture
def rotated(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes that MLX's function was given."""
    shapes: list[tuple[int, ...]] = []
    rope: Any = mx.fast.rope

    def note(x: mx.array, *args: Any, **settings: Any) -> mx.array:
        shapes.append(x.shape)
        return rope(x, *args, **settings)

    monkeypatch.setattr(mx.fast, "rope", note)
    return shapes


def same(one: mx.array, other: mx.array) -> bool:
    as_integers = {2: mx.uint16, 4: mx.uint32}[one.dtype.size]
    return one.dtype == other.dtype and bool(mx.array_equal(one.view(as_integers), other.view(as_integers)))


@given(
    dims=st.sampled_from([32, 64, 96, 128, 48]),
    base=st.sampled_from([10000, 10000.0, 1e6, 500000.0, 12345.678]),
    scale=st.sampled_from([1.0, 0.25, 1 / 3]),
    dtype=st.sampled_from([mx.float32, mx.bfloat16, mx.float16]),
    traditional=st.booleans(),
    calls=st.lists(
        st.tuples(offsets, st.integers(1, 20), st.integers(1, 3), st.integers(0, 9)), min_size=1, max_size=4
    ),
)
def test_all_calls_give_the_same_bits(
    dims: int, base: float, scale: float, dtype: mx.Dtype, traditional: bool, calls: list[tuple[int, int, int, int]]
):
    plain = nn.RoPE(dims, traditional, base, scale)
    shared = nn.RoPE(dims, traditional, base, scale)
    share_tables(shared)
    for offset, width, rows, seed in calls:
        # As models have it: heads come from an inner axis.
        x = mx.random.normal((rows, width, 3, dims), key=mx.random.key(seed)).astype(dtype).transpose(0, 2, 1, 3)
        x = mx.where(mx.random.uniform(shape=x.shape, key=mx.random.key(seed)) < 0.1, -0.0, x).astype(dtype)
        assert same(shared(x, offset=offset), plain(x, offset=offset))
        assert same(shared(x), plain(x))
        each = mx.arange(offset, offset + rows)
        assert same(shared(x, offset=each), plain(x, offset=each))
        wider = mx.concatenate([x, x], -1)
        assert same(shared(wider, offset=offset), plain(wider, offset=offset))


def test_layers_that_rotate_alike_share_what_they_compute(rotated: list[tuple[int, ...]]):
    model = nn.Sequential(nn.RoPE(32), nn.RoPE(32), nn.RoPE(32, base=500), nn.RoPE(32, traditional=True))
    share_tables(model)
    x = mx.ones((1, 2, 1, 32))
    for offset in range(64):
        for layer in model.layers[:3]:
            layer(x, offset=offset)
            layer(x, offset=offset)
    assert len(rotated) == 2
    model.layers[0](x, offset=64)
    assert len(rotated) == 3


def test_long_prompts_leave_nothing_behind(rotated: list[tuple[int, ...]]):
    rope = nn.RoPE(64)
    share_tables(rope)
    mx.eval(rope(mx.ones((1, 2, 1, 64)), offset=7))
    held = mx.get_active_memory()
    mx.eval(rope(mx.ones((1, 2, 2000, 64))))
    assert rotated[-1] == (1, 2, 2000, 64)
    assert mx.get_active_memory() <= held


def test_only_plain_modules_are_changed():
    class Own(nn.RoPE):  # type: ignore[misc]
        pass

    own, pairs = Own(64), nn.RoPE(64, traditional=True)
    for module in (own, pairs):
        kind = type(module)
        share_tables(module)
        assert type(module) is kind


def test_a_loaded_model_answers_as_before(rotated: list[tuple[int, ...]]):
    loaded = load(BUILT_IN[DEMO])
    driver = Driver(loaded)
    prompt = [5, 900, 17, 3001, 8] * 9
    rotated.clear()
    first = driver.tokens(prompt, max_tokens=40)
    driver.run()
    ropes = [module for module in loaded.model.modules() if isinstance(module, nn.RoPE)]
    # For queries and keys: a prompt's passes are few, and one more for each token would be many.
    assert len(rotated) <= 4 * 2 * len(ropes)
    for module in ropes:
        module.__class__ = nn.RoPE
    plain = Driver(loaded)
    second = plain.tokens(prompt, max_tokens=40)
    plain.run()
    assert len(rotated) > 30 * 2 * len(ropes)
    answer, expected = driver.answers()[first, 0], plain.answers()[second, 0]
    assert answer.tokens >= 30 and answer.output == expected.output
