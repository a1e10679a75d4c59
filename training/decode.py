"""Greedy decoding of many prompts at once: left-padded batches on mlx-lm's batch cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import BatchKVCache

STEPS_BETWEEN_LOOKS: Final = 16  # tokens are read, and finished rows dropped, once in so many steps


@dataclass(frozen=True, slots=True)
class Ends:
    stop: int
    padding: int


def greedy(model: nn.Module, prompts: Sequence[Sequence[int]], ends: Ends, longest: int, rows: int) -> list[list[int]]:
    """What follows each prompt: at most `longest` tokens, the stop token included where it came."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    found: dict[int, list[int]] = {}
    for start in range(0, len(order), rows):
        chosen = order[start : start + rows]
        made = _batch(model, [prompts[index] for index in chosen], ends, longest)
        found.update(zip(chosen, made, strict=True))
    return [found[index] for index in range(len(prompts))]


def _batch(model: nn.Module, prompts: Sequence[Sequence[int]], ends: Ends, longest: int) -> list[list[int]]:
    width = max(map(len, prompts))
    padding = [width - len(prompt) for prompt in prompts]
    caches: list[Any] = [BatchKVCache(padding) for _ in model.layers]
    tokens = mx.array([[ends.padding] * pad + list(prompt) for pad, prompt in zip(padding, prompts, strict=True)])
    running = list(range(len(prompts)))
    made: list[list[int]] = [[] for _ in prompts]
    while running and len(made[running[0]]) < longest:
        columns = []
        for _ in range(STEPS_BETWEEN_LOOKS):
            tokens = mx.argmax(model(tokens, cache=caches)[:, -1], axis=-1, keepdims=True)
            mx.async_eval(tokens)  # type: ignore[no-untyped-call]
            columns.append(tokens)
        read: Any = mx.concatenate(columns, axis=1).tolist()
        for row, new in zip(running, read, strict=True):
            made[row] += new
        left = [place for place, row in enumerate(running) if ends.stop not in made[row]]
        if left and len(left) < len(running):
            keep = mx.array(left)
            tokens = tokens[keep]
            for cache in caches:
                cache.filter(keep)
        running = [running[place] for place in left]
    return [_until(row[:longest], ends.stop) for row in made]


def _until(row: list[int], stop: int) -> list[int]:
    return row[: row.index(stop) + 1] if stop in row else row
