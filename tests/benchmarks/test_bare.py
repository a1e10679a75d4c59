"""The bare loop's model is mlx-lm's."""

from __future__ import annotations

import mlx.core as mx
from benchmarks.bare import untouched
from mlx import nn

from mlx_server_nano.worker.direct import direct


def test_a_twin_shares_the_weights_and_not_what_the_worker_does_to_modules():
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 2)))
    model.last = nn.LayerNorm(2)
    direct(model)
    twin = untouched(model)
    assert "last" in vars(model) and "last" not in vars(twin)
    assert twin.last is not model.last and twin.last.weight is model.last.weight
    assert [type(layer) for layer in (twin.layers[0], twin.layers[1].layers[0])] == [nn.Linear] * 2
    assert type(model.layers[1].layers[0]) is not nn.Linear
    assert mx.array_equal(twin(mx.ones((1, 4))), model(mx.ones((1, 4))))
