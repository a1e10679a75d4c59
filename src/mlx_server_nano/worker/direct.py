"""A model's layers without what they would look up or make anew at each call.

`mlx.nn.Module` keeps its submodules as entries of a dict. Python asks `Module.__getattr__` for them, a function in Python,
and only after a look-up of its own that failed: 430 times a step in a model of 28 layers, and a quarter of the time that the
host takes to build the graph of a step.

`mlx.nn.Linear` transposes its weight at each call. Nothing is copied, but it is one more node of the graph to build and to
evaluate for each product, 196 of a thousand in such a step."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx import nn


class _Linear(nn.Linear):
    """Keeps `transposed`, a view of its weight."""

    def __call__(self, x: mx.array) -> mx.array:
        return mx.addmm(self["bias"], x, self.transposed) if "bias" in self else x @ self.transposed


def direct(model: Any) -> None:
    """Make submodules attributes as well, and transpose weights. To be called when no submodule and no weight will be replaced
    any more: what is made here would stay as it is."""
    for module in model.modules():
        parts = {name: part for name, part in module.items() if isinstance(part, nn.Module)}
        vars(module).update({name: part for name, part in parts.items() if not hasattr(type(module), name)})
        if type(module) is nn.Linear:
            module.__class__ = _Linear
            vars(module)["transposed"] = module["weight"].T
