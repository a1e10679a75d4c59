"""A model's layers without what they would look up or make anew at each call.

`mlx.nn.Module` keeps its submodules as entries of a dict. Python asks `Module.__getattr__` for them, a function in Python,
and only after a look-up of its own that failed: 430 times a step in a model of 28 layers, and a quarter of the time that the
host takes to build the graph of a step.

`mlx.nn.Linear` transposes its weight at each call, and MLX flattens what such a matrix is applied to and shapes the outcome back.
Nothing is copied, but each is a node of the graph to build and to evaluate: for a lone row 588 of the step's 1,464."""

from __future__ import annotations

from typing import Any, Final

import mlx.core as mx
from mlx import nn

_ONE: Final = (1,)


class _Linear(nn.Linear):
    """Keeps views of its weight. transposed: `[in, out]`. alone: the same for a batch of one, `[1, in, out]`."""

    def __call__(self, x: mx.array) -> mx.array:
        weight = self.alone if x.shape[:-2] == _ONE else self.transposed
        return mx.addmm(self["bias"], x, weight) if "bias" in self else x @ weight


def direct(model: Any) -> None:
    """Make submodules attributes as well, and views of weights. To be called when no submodule and no weight will be replaced
    any more: what is made here would stay as it is."""
    for module in model.modules():
        for name, part in module.items():
            if isinstance(part, nn.Module) and not hasattr(type(module), name):
                vars(module)[name] = part
        if type(module) is nn.Linear:
            module.__class__ = _Linear
            transposed = module["weight"].T
            vars(module).update(transposed=transposed, alone=transposed[None])
