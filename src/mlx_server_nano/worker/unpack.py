"""Quantized weights as plain ones, where products with those are fast: on a CPU.

MLX's CPU build multiplies quantized matrices value by value. With plain single-precision weights, products take half of the time
or less, those of a prompt with OpenBLAS a twelfth to a twentieth; and four to eight times the memory, which only small models are
worth. Weights whose scales have half precision stay: what they become is no faster."""

from __future__ import annotations

from typing import Any, Final

import mlx.core as mx
from mlx_lm.utils import dequantize_model

_MOST: Final = 256 << 20  # bytes


def unpacked(model: Any, most: int = _MOST) -> Any:
    """The model with plain weights, or as it is if that is of no use or takes more bytes than `most`."""
    packed = [module for _, module in model.named_modules() if "scales" in module]
    if not packed or any(module.scales.dtype != mx.float32 for module in packed):
        return model
    if sum(mx.float32.size * module.weight.size * 32 // module.bits for module in packed) > most:
        return model
    model = dequantize_model(model)
    for module in model.modules():
        # Column by column in memory: the reference BLAS, which MLX brings along, takes a half to a third of the time then.
        if "weight" in module and module.weight.ndim == 2:
            module.weight = mx.contiguous(module.weight.T).T
    return model
