"""Quantized weights as plain ones: the same answers, only where it is of use, and only for small models."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map
from mlx_lm.utils import dequantize_model, load_model

from mlx_server_nano.models.catalog import BUILT_IN, DEMO
from mlx_server_nano.protocol import LoadOptions
from mlx_server_nano.worker import loader
from mlx_server_nano.worker.unpack import unpacked


@pytest.fixture
def packed() -> Any:
    """The demo model: 8 bits, scales in single precision."""
    return load_model(BUILT_IN[DEMO])[0]


def kinds(model: Any) -> set[mx.Dtype]:
    return {array.dtype for _, array in tree_flatten(model.parameters())}


def test_logits_stay_the_same(packed: Any):
    ids = mx.array([[5, 900, 17, 3001, 8]])
    before = np.array(packed(ids))
    plain = unpacked(packed)
    assert kinds(plain) == {mx.float32}
    np.testing.assert_allclose(np.array(plain(ids)), before, atol=2e-3)


def test_a_large_model_stays_packed(packed: Any):
    weights = 4 * sum(
        array.size for name, array in tree_flatten(dequantize_model(load_model(BUILT_IN[DEMO])[0]).parameters())
    )
    assert mx.uint32 in kinds(unpacked(packed, most=int(0.99 * weights)))
    assert mx.uint32 not in kinds(unpacked(packed, most=weights))


def test_half_precision_stays_packed(packed: Any):
    packed.update(tree_map(lambda a: a.astype(mx.bfloat16) if a.dtype == mx.float32 else a, packed.parameters()))
    assert mx.uint32 in kinds(unpacked(packed))


def test_a_model_without_quantization_stays_as_it_is(packed: Any):
    plain = unpacked(packed)
    assert unpacked(plain) is plain


def test_loading():
    loaded = loader.load(BUILT_IN[DEMO], LoadOptions(log_name="demo"), lambda fraction: None)
    assert (mx.uint32 in kinds(loaded.model)) is (mx.default_device() != mx.cpu)
