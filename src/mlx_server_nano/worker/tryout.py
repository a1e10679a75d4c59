"""What a model can do, tried out when it has been loaded.

The first use of a kernel compiles it, and a model whose caches or positions don't go into slots shows it here rather than
under load."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from mlx_server_nano.errors import ModelLoadError, UnsupportedModelError
from mlx_server_nano.worker import joint, slots
from mlx_server_nano.worker.compiled import plain_step
from mlx_server_nano.worker.drafts import Verifying
from mlx_server_nano.worker.joint import Part
from mlx_server_nano.worker.quantized import FULL_PRECISION, quantized
from mlx_server_nano.worker.ranks import ALONE, Ranks
from mlx_server_nano.worker.row_cost import RowCost

_LOG = logging.getLogger(__name__)

# Of what logits range over: what two ways of computing the same may differ by.
_TOLERANCE: Final = 0.1


@dataclass(frozen=True, slots=True)
class Abilities:
    """batchable: rows can go into slots. joins: groups of them can share a forward pass. verifies, kv_bytes, row_cost: see
    `LoadedModel`."""

    vocab_size: int
    batchable: bool
    joins: bool
    verifies: Verifying
    kv_bytes: int
    row_cost: RowCost


def try_out(model: Any, path: Path, kv_bits: int | None, ranks: Ranks = ALONE) -> Abilities:
    """Run two short rows alone and then together. Raises UnsupportedModelError where the model can't do with quantized caches,
    ModelLoadError where it can't run."""
    joint.prepare(model)
    own = [quantized(make_prompt_cache(model), kv_bits) for _ in range(2)]
    batchable = ranks.everywhere(all(slots.batchable(cache) for cache in own[0]))
    cuttable = ranks.everywhere(all(slots.cuttable(cache) for cache in own[0]))
    try:
        for caches, ids in zip(own, ([1, 2], [1, 2, 3]), strict=True):
            logits = model(mx.array([ids]), cache=caches)
            mx.eval(logits, [array for cache in caches for array in slots.arrays(cache)])
    except Exception as error:
        if kv_bits is not None:
            raise UnsupportedModelError(
                f"{path.name} can't run with --kv-bits {kv_bits}: its attention does not read quantized keys and values"
                f" ({first_line(error, path)}). Load it without, or set kv-bits = {FULL_PRECISION} for this model."
            ) from error
        raise ModelLoadError(f"A forward pass of the model failed: {first_line(error, path)}") from error
    if batchable and (problem := _trial(model, [_together(own)], [[3], [4]])):
        _LOG.warning("This model's rows can't be batched and run one at a time: %s", problem)
        batchable = False
    verifies = Verifying.ALL if cuttable else Verifying.ALONE if batchable else Verifying.NOBODY
    if batchable and cuttable and (problem := _trial(model, [_together(own)], [[3, 5], [4, 6]])):
        _LOG.warning("Drafts can't be verified in this model's batches, only for a row alone: %s", problem)
        verifies = Verifying.ALONE
    return Abilities(
        vocab_size=logits.shape[-1],
        batchable=batchable,
        joins=ranks.everywhere(batchable and _joins(model, own)),
        verifies=verifies,
        kv_bytes=sum(slots.bytes_per_token(cache) for cache in own[0]),
        row_cost=RowCost.of(own[0]),
    )


def first_line(error: Exception, path: Path) -> str:
    """What a client may read: without the machine's folders."""
    return (str(error).replace(str(path), path.name).strip() or type(error).__name__).splitlines()[0][:300]


def _joins(model: Any, own: list[list[Any]]) -> bool:
    """Whether a row alone and others in slots can share a pass: the first one goes through it as both."""
    problem = _trial(model, [Part(own[0], [2]), _together(own)], [[3], [3], [4]], alike=(0, 1))
    if problem is not None:
        _LOG.info("Rows of very different length take a forward pass each with this model: %s", problem)
    return problem is None


def _together(own: list[list[Any]]) -> Part:
    """Two rows in slots."""
    together = [slots.slots_for(cache) for cache in own[0]]
    for layer, shared in enumerate(together):
        for slot, caches in enumerate(own):
            slots.put(shared, slot, slots.fork(caches[layer]))
    return Part(together, [2, 3])


def _trial(
    model: Any, parts: list[Part], tokens: list[list[int]], alike: tuple[int, int] | None = None
) -> Exception | None:
    """What is wrong with sending these tokens through the model. alike: two rows that must come out the same."""
    try:
        logits = plain_step(model, mx.array(tokens), parts).astype(mx.float32)
        mx.eval(logits)
    except Exception as error:
        return error
    if alike is not None:
        one, other = (logits[row] for row in alike)
        off: Any = mx.abs(one - other).max().item()
        if not off <= _TOLERANCE * (one.max() - one.min()).item():
            return ValueError(f"logits differ by {off:.3g}")
    return None
