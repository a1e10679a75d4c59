"""Batches of fixed shapes, without packing.

A step takes some rows of every length class at once, one conversation a row, padded at its end. So no conversation sees
another one, causal attention needs no mask and takes the fastest kernel, every step has the whole mixture in it, and the step
compiles once. About a quarter of the positions are padding, which costs less than masked attention would.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.data import shards
from training.data.shards import Sample

# Few: every class is a pass of its own through all layers. One more than a multiple of 128: a pass takes in all tokens but the
# last, and matrix units want its length aligned.
CLASSES: Final = (129, 257, 513, 769, shards.LONGEST + 1)
POLL: Final = 0.5  # seconds between looks into a folder that is still empty


@dataclass(frozen=True, slots=True)
class Rows:
    """Conversations of one length class. `tokens` is (rows, class); `prompts` and `lengths` are (rows,)."""

    tokens: NDArray[np.int32]
    prompts: NDArray[np.int32]
    lengths: NDArray[np.int32]


def shares(samples: Sequence[Sample]) -> list[float]:
    """What part of the conversations belongs to each length class."""
    places = np.searchsorted(CLASSES, [len(sample.tokens) for sample in samples])
    return [float(count) / len(samples) for count in np.bincount(places, minlength=len(CLASSES))]


def rows_per_class(samples: Sequence[Sample], positions: int) -> list[int]:
    """How many rows of each class a step takes, so that all classes drain alike and `positions` are filled.

    A class that no sample is in gets none.
    """
    parts = shares(samples)
    total = positions / sum(part * length for part, length in zip(parts, CLASSES, strict=True))
    return [max(1, round(part * total)) if part else 0 for part in parts]


def fill(samples: Sequence[Sample], rows: int, length: int, padding: int) -> Rows:
    """Rows of one class. Missing ones are empty: no position of them counts."""
    tokens = np.full((rows, length), padding, np.int32)
    prompts, lengths = np.zeros(rows, np.int32), np.zeros(rows, np.int32)
    for row, sample in enumerate(samples):
        tokens[row, : len(sample.tokens)] = sample.tokens
        prompts[row], lengths[row] = sample.prompt, len(sample.tokens)
    return Rows(tokens, prompts, lengths)


def stream(folder: Path, seed: int, position: int = 0) -> Iterator[tuple[int, list[Sample]]]:
    """Shards for ever, shuffled, each with the position to resume at after it: first all in order, then any.

    Waits for the first shard to appear; those that appear later are taken in as they come.
    """
    for place in itertools.count(position):
        while not (paths := sorted(folder.glob("*.npz"))):
            time.sleep(POLL)
        generator = np.random.default_rng((seed, place))
        index = place if place < len(paths) else int(generator.integers(len(paths)))
        samples = shards.read(paths[index])
        yield place + 1, [samples[i] for i in generator.permutation(len(samples))]


class Batches:
    """Endless steps' worth of rows. `position` says where to resume."""

    def __init__(self, folder: Path, positions: int, padding: int, seed: int, position: int = 0) -> None:
        self.position = position
        self._padding = padding
        self._shards = stream(folder, seed, position)
        self._waiting: list[deque[Sample]] = [deque() for _ in CLASSES]
        self._rows = rows_per_class(self._load(), positions)

    def _load(self) -> list[Sample]:
        self.position, samples = next(self._shards)
        for sample in samples:
            self._waiting[int(np.searchsorted(CLASSES, len(sample.tokens)))].append(sample)
        return samples

    def __next__(self) -> list[Rows]:
        while sum(len(w) < r for w, r in zip(self._waiting, self._rows, strict=True)) > 1:
            self._load()
        return [
            fill([waiting.popleft() for _ in range(min(rows, len(waiting)))], rows, length, self._padding)
            for waiting, rows, length in zip(self._waiting, self._rows, CLASSES, strict=True)
            if rows
        ]
