"""Attention where MLX's CUDA build has none that is fast.

MLX's CUDA build has cuDNN plan its fused attention anew for every length of queries or keys, which took 45 ms on an H100: five
decode steps of an 8B model, paid by each verifying pass and each part of a prompt, as their lengths hardly ever repeat. Made of
plain products it takes about 0.1 ms a layer while the scores are small. Steps of one token are planned once for a cache's
capacity, and Metal plans nothing, so both keep the fused kernels. (What MLX chooses: mlx/backend/cuda/
scaled_dot_product_attention.cpp.)

One token a row under a mask runs unfused there, in twice the time. Compiled steps, which need masks, fold heads instead."""

from __future__ import annotations

from typing import Any, Final

import mlx.core as mx
from mlx_lm.models import base

_MOST_SCORES: Final = 1 << 26  # of all heads: 128 MiB in half precision, where both ways take about as long


def plans_shapes() -> bool:
    """Whether this is MLX's CUDA build on its GPU."""
    return mx.default_device() == mx.gpu and not mx.metal.is_available()


def attention(  # noqa: PLR0917 - the signature is mlx-lm's
    queries: mx.array, keys: Any, values: Any, cache: Any, scale: float, mask: Any, sinks: mx.array | None = None
) -> mx.array:
    """mlx-lm's attention, `[rows, heads, width, dim]`, in the way that suits the shape."""
    rows, heads, width, _ = queries.shape
    # In this order: a step of one token without a mask asks nothing of the device.
    if (width > 1 or mask is not None) and sinks is None and not hasattr(cache, "bits") and plans_shapes():
        if width == 1 and isinstance(mask, mx.array) and getattr(cache, "recurs", False):
            return folded(queries, keys, values, scale, mask)
        if width > 1 and rows * heads * width * keys.shape[2] <= _MOST_SCORES:
            return plain(queries, keys, values, scale, mask)
    return base.scaled_dot_product_attention(queries, keys, values, cache, scale, mask, sinks)


def folded(queries: mx.array, keys: mx.array, values: mx.array, scale: float, mask: mx.array) -> mx.array:
    """Attention of one token a row under a mask, bool `[rows, 1, 1, length]`. The heads that share keys become a head's queries:
    MLX's CUDA build has a fused kernel for several queries and a bias, and none for one query and a mask."""
    rows, heads, _, _ = queries.shape
    asked = queries.reshape(rows, keys.shape[1], -1, queries.shape[3])
    bias = mx.where(mask, 0, mx.finfo(queries.dtype).min).astype(queries.dtype)
    bias = mx.broadcast_to(bias, (*bias.shape[:2], asked.shape[2], bias.shape[3]))
    return mx.fast.scaled_dot_product_attention(asked, keys, values, scale=scale, mask=bias).reshape(rows, heads, 1, -1)


def plain(queries: mx.array, keys: mx.array, values: mx.array, scale: float, mask: Any) -> mx.array:
    """softmax(queries · keys · scale + mask) · values. mask: None, "causal", or an array that goes with the scores
    `[rows, heads, width, length]`, to add or, of booleans, to keep."""
    rows, heads, width, dim = queries.shape
    kv_heads, length = keys.shape[1:3]
    # The heads that share keys are one product's rows: the keys are not repeated.
    asked = (queries * scale).reshape(rows, kv_heads, -1, dim)
    scores = (asked @ keys.swapaxes(-1, -2)).reshape(rows, kv_heads, -1, width, length)
    if isinstance(mask, str):
        mask = mx.arange(length - width, length)[:, None] >= mx.arange(length)
    if mask is not None:
        if mask.ndim > 2:
            shared = mask.shape[-3] == 1
            mask = mask[..., None, :, :] if shared else mx.unflatten(mask, -3, (kv_heads, -1))
        scores = mx.where(mask, scores, mx.finfo(scores.dtype).min) if mask.dtype == mx.bool_ else scores + mask
    weights = mx.softmax(scores, axis=-1, precise=True)
    return (weights.reshape(rows, kv_heads, -1, length) @ values).reshape(rows, heads, width, values.shape[-1])
