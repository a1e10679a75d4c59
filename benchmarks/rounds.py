"""Contestants that take turns, and what each of them showed in a round."""

from __future__ import annotations

import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from benchmarks import prompts
from benchmarks.figures import Answer, TroubleError


class Record(Struct, frozen=True, kw_only=True):
    """What one contestant showed in one round: figures by their rows' keys, what went wrong and how often, and every request
    as `[time to first token, total time, tokens, prompt tokens, of these cached, arrivals, largest gap]`."""

    figures: dict[str, float | None]
    troubles: dict[str, dict[str, int]]
    requests: dict[str, list[tuple[float, float, int, int, int, int, float]]]


Records = dict[str, list[Record]]
"""By contestant, a record a round."""


class Round(ABC):
    """Collects a contestant's figures. `record` holds what there is so far, also when `play` fails."""

    def __init__(self, model: Path) -> None:
        self._model = model
        self._tokens_per_word = prompts.tokens_per_word(model)
        self.record = Record(figures={}, troubles={}, requests={})

    @abstractmethod
    def play(self) -> None:
        """Raises TroubleError, RuntimeError or CalledProcessError if the contestant can't go on."""

    def words(self, tokens: int) -> int:
        return max(1, round(tokens / self._tokens_per_word))

    def note_requests(self, name: str, answers: Sequence[Answer]) -> None:
        self.record.requests[name] = [
            (
                round(a.first, 5),
                round(a.arrivals[-1] - a.sent, 5),
                a.tokens,
                a.prompt_tokens,
                a.cached_tokens,
                len(a.arrivals),
                round(max(a.gaps, default=0.0), 5),
            )
            for a in answers
        ]


def take_turns(
    contestants: Sequence[str], rounds: int, begin: Callable[[str, int], Round], save: Callable[[Records], None]
) -> None:
    """Rounds of all contestants, one at a time, every second one in the opposite order. What a round has shown is saved when it
    ends, also if it fails or the benchmark is told to end."""
    records: Records = {name: [] for name in contestants}
    for i in range(rounds):
        for name in contestants if i % 2 == 0 else reversed(contestants):
            print(f"round {i + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            turn = begin(name, i)
            records[name].append(turn.record)
            try:
                turn.play()
            except (TroubleError, RuntimeError, subprocess.CalledProcessError) as error:
                print(f"  {name}: {error}", file=sys.stderr, flush=True)
                turn.record.troubles["gave up"] = {str(error): 1}
            finally:
                save(records)
