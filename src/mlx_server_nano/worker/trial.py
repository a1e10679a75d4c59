"""Whether compiled steps pay: tried out on the machine that the model runs on, when its engine first comes to rest.

A compiled step spares the host work, and in exchange attention reads a rounded length through a mask, for which a device
may have slower kernels. Which of the two weighs more depends on model, device and length, so it is measured: a few steps of
one row alone, short and long, and of two rows together, in portions between which requests can come in."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import mlx.core as mx
from mlx_lm.models.cache import CacheList, KVCache, RotatingKVCache

from mlx_server_nano.worker import slots
from mlx_server_nano.worker.admission import Admission
from mlx_server_nano.worker.compiled import ANY_LENGTH, CompiledStep, Compiles, plain_step
from mlx_server_nano.worker.joint import Part

_LOG = logging.getLogger(__name__)

_SHORT = 3
_LONG = 2000
_TOKENS = 2 * _LONG
_WARM_UP = 2
_STEPS = 8
_ROUNDS = 2
# A model that takes longer for a step is not held up by the host.
_SLOW_SECONDS = 0.1
_WORTH = 0.98
_TOLERANCE = 0.1

_T = TypeVar("_T")
_Step = Callable[[mx.array, list[Part]], mx.array | None]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Seconds a step."""

    plain: float
    compiled: float

    @property
    def pays(self) -> bool:
        return self.compiled < _WORTH * self.plain

    @property
    def saved(self) -> float:
        return self.plain - self.compiled


Trial = Generator[None, None, _T]


def trial(model: Any, new_caches: Callable[[], list[Any]], *, batchable: bool) -> Trial[Compiles]:
    """A generator that takes a few steps at a time; what it returns in the end pays for this model. On a CPU nothing does: each
    kernel takes the system's compiler seconds."""
    if mx.default_device() == mx.cpu:
        return Compiles()
    try:
        alone = yield from _limit_alone(model, new_caches)
        pair = (yield from _outcome(model, new_caches, 2, _SHORT)) if batchable else None
    except Exception as error:
        _LOG.warning("Decode steps are not compiled for this model: %s", error)
        return Compiles()
    # Rows of different length need a mask either way.
    return Compiles(alone, ANY_LENGTH if pair is not None and pair.pays else 0)


def tried_out(compiled: CompiledStep, portions: Trial[Compiles], admission: Admission) -> Iterator[None]:
    """Let a trial decide what is compiled, a portion at a time; there is none where memory is short."""
    while admission.short(admission.for_more(0, _TOKENS)) <= 0:
        try:
            next(portions)
        except StopIteration as end:
            compiled.compiles = end.value
            return
        yield


def _limit_alone(model: Any, new_caches: Callable[[], list[Any]]) -> Trial[int]:
    """The length up to which compiled steps of a lone row pay: what they save is taken to change evenly with it."""
    short = yield from _outcome(model, new_caches, 1, _SHORT)
    if short is None or not short.pays:
        return 0
    long = yield from _outcome(model, new_caches, 1, _LONG)
    if long is None:
        return 0
    lost = (short.saved - long.saved) / (_LONG - _SHORT)
    return ANY_LENGTH if lost <= 0 else int(short.saved / lost)


def _outcome(model: Any, new_caches: Callable[[], list[Any]], rows: int, length: int) -> Trial[_Outcome | None]:
    """None if steps can't be compiled or say something else."""

    def plain(inputs: mx.array, parts: list[Part]) -> mx.array:
        return plain_step(model, inputs, parts)[:, -1]

    compiled = CompiledStep(model, Compiles(ANY_LENGTH, ANY_LENGTH), settled=1)
    lengths = [length + row for row in range(rows)]
    ways: tuple[_Step, _Step] = (plain, compiled)
    best = dict.fromkeys(ways, math.inf)
    logits: dict[_Step, mx.array] = {}
    for turn, step in itertools.product(range(_ROUNDS), ways):
        yield
        taken, said = _run(step, _filled(model, new_caches, lengths), lengths)
        if said is None:
            return None
        best[step], logits[step] = min(best[step], taken), said
        if turn and taken > _SLOW_SECONDS:
            break
    spread: Any = (logits[plain].max() - logits[plain].min()).item()
    off: Any = mx.abs(logits[plain] - logits[compiled]).max().item()
    if not off <= _TOLERANCE * spread:
        _LOG.warning("Decode steps are not compiled for this model: logits differ by %.3g", off)
        return None
    outcome = _Outcome(best[plain], best[compiled])
    _LOG.info(
        "A step of %d rows of %d tokens takes %.2f ms, compiled %.2f",
        *(rows, length, 1e3 * outcome.plain, 1e3 * outcome.compiled),
    )
    return outcome


def _filled(model: Any, new_caches: Callable[[], list[Any]], lengths: list[int]) -> list[Any]:
    """Caches of rows that hold so many tokens; all but the first few are made up."""
    own = [new_caches() for _ in lengths]
    for caches, length in zip(own, lengths, strict=True):
        model(mx.array([[1] * min(length, _SHORT)]), cache=caches)
        for cache in caches:
            _lengthen(cache, length)
    if len(own) == 1:
        return own[0]
    together = [slots.slots_for(cache) for cache in own[0]]
    for layer, shared in enumerate(together):
        for slot, caches in enumerate(own):
            slots.put(shared, slot, caches[layer])
    return together


def _lengthen(cache: Any, length: int) -> None:
    if isinstance(cache, CacheList):
        for part in cache.caches:
            _lengthen(part, length)
    elif type(cache) is RotatingKVCache and length > cache.offset:
        # A full window, as if it had been turned to where a step wants it.
        more = [(0, 0), (0, 0), (0, max(0, min(length, cache.max_size) - cache.keys.shape[2])), (0, 0)]
        cache.keys, cache.values, cache.offset = mx.pad(cache.keys, more), mx.pad(cache.values, more), length
        cache._idx = (length - 1) % cache.max_size + 1
    elif type(cache) is KVCache:
        more = [(0, 0), (0, 0), (0, max(0, length - cache.keys.shape[2])), (0, 0)]
        cache.keys, cache.values, cache.offset = mx.pad(cache.keys, more), mx.pad(cache.values, more), length


def _run(step: _Step, caches: list[Any], lengths: list[int]) -> tuple[float, mx.array | None]:
    """Seconds a step, and the logits of the last; None if a step was not taken. As in the engine, a step is launched while the
    one before it runs."""
    inputs = mx.array([[2]] * len(lengths), dtype=mx.uint32)
    started, before = 0.0, inputs
    for i in range(_WARM_UP + _STEPS):
        if i == _WARM_UP:
            mx.eval(before)
            started = time.monotonic()
        logits = step(inputs, [Part(caches, [length + i for length in lengths])])
        if logits is None:
            return 0.0, None
        mx.async_eval(logits)
        mx.eval(before)
        before = logits
    mx.eval(before)
    return (time.monotonic() - started) / _STEPS, before.astype(mx.float32)
