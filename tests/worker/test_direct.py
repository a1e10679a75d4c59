"""Submodules are found without a call, weights are transposed once, and what comes out is the same."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from mlx import nn
from mlx.utils import tree_flatten

from mlx_server_nano.worker.direct import direct
from tests.worker.conftest import Tiny


class Outer(nn.Module):  # type: ignore[misc]
    """Has a method of a submodule's name, and a submodule in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(4)
        self.steps = [nn.Linear(4, 4, bias=False)]
        self["scale"] = nn.Linear(4, 4)
        self.weight = mx.ones(4)

    def scale(self, x: mx.array) -> mx.array:
        return x * self.weight

    def __call__(self, x: mx.array) -> mx.array:
        return self.scale(self.steps[0](self.norm(x)))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names that Python did not find among the attributes of a module."""
    names: list[str] = []
    found: Any = nn.Module.__getattr__

    def note(self: nn.Module, name: str) -> Any:
        names.append(name)
        return found(self, name)

    monkeypatch.setattr(nn.Module, "__getattr__", note)
    return names


def test_submodules_become_attributes_and_stay_what_they_are(asked: list[str]):
    model = Outer()
    x = mx.arange(8.0).reshape(2, 4)
    before, parameters = model(x), dict(tree_flatten(model.parameters()))
    direct(model)
    asked.clear()
    assert mx.array_equal(model(x), before)
    assert set(asked) == {"steps", "weight"}
    assert model.norm is model["norm"]
    assert dict(tree_flatten(model.parameters())).keys() == parameters.keys()
    model.weight = mx.zeros(4)
    assert not model(x).any()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("shape", [(), (3,), (1, 1), (1, 7), (5, 1), (1, 1, 2), (2, 1, 3)])
def test_products_are_the_same_of_a_weight_that_is_held_once(shape: tuple[int, ...], bias: bool, dtype: mx.Dtype):
    layer = nn.Linear(512, 1024, bias=bias)
    layer.set_dtype(dtype)
    x = mx.random.normal((*shape, 512)).astype(dtype)
    expected = layer(x)
    mx.eval(layer.parameters(), expected)
    held = mx.get_active_memory()
    direct(layer)
    products = layer(x)
    mx.eval(products)
    assert products.shape == expected.shape and mx.array_equal(products, expected)
    assert mx.get_active_memory() - held < layer.weight.nbytes
    assert set(dict(tree_flatten(layer.parameters()))) == ({"weight", "bias"} if bias else {"weight"})


def test_only_plain_layers_are_changed():
    class Own(nn.Linear):  # type: ignore[misc]
        def __call__(self, x: mx.array) -> mx.array:
            return x

    own, quantized = Own(64, 64), nn.Linear(64, 64).to_quantized(64, 8)
    for layer in (own, quantized):
        kind = type(layer)
        direct(layer)
        assert type(layer) is kind


def test_a_loaded_models_layers_are_direct(tiny: Tiny, asked: list[str]):
    loaded = tiny("qwen3")
    asked.clear()
    loaded.model(mx.array([[1, 2]]), cache=loaded.new_caches())
    assert set(asked) <= {"layers", "weight", "make_cache"}
