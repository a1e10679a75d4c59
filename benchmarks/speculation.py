"""Speculation on and off, in turn, on the same engine, weights and prompts: what it gives and what it costs.

    python -m benchmarks.speculation                  # the demo model's own copying, and a random model
    python -m benchmarks.speculation --shape 8B --dtype bfloat16 --only random

What a random model shows is the mechanism alone, at the acceptance that the workload makes: see benchmarks/README.md."""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import figures
from benchmarks.engine import EngineLoop
from benchmarks.random_model import SHAPES, make
from mlx_server_nano.protocol import LoadOptions
from mlx_server_nano.types import Sampling
from mlx_server_nano.worker import loader

_DEMO: Final = Path(loader.__file__).parents[1] / "demo"
_WARM_UP_ROUNDS: Final = 1
_ONLY: Final = 1e4  # added to a logit: nothing else can win

# The demo model puts such a sentence into the past tense: all of it is copied but one word, and what it copies it reads.
_NAMES: Final = ("Brannok", "Mirovel", "Sandolin", "Verrick", "Jorvina", "Tolbrek", "Quarrin", "Eldwick")
_ACTIONS: Final = (
    "finds a silver compass",
    "paints the wooden boat",
    "repairs the old lantern",
    "carries a green basket",
)


@dataclass(frozen=True, slots=True)
class Workload:
    """prompts: new ones for so many rows at each call."""

    name: str
    prompts: Callable[[random.Random, int], list[list[int]]]
    sampling: Sampling


def demo_workload(loaded: loader.LoadedModel) -> Workload:
    def prompts(generator: random.Random, rows: int) -> list[list[int]]:
        return [_rewriting(loaded, generator) for _ in range(rows)]

    return Workload("the demo model rewrites a sentence", prompts, Sampling(temperature=0))


def _rewriting(loaded: loader.LoadedModel, generator: random.Random) -> list[int]:
    who, other, place, friend = generator.sample(_NAMES, 4)
    sentence = f"{who} {generator.choice(_ACTIONS)} near the {place} tower with {friend} and {other} every day."
    question = {"role": "user", "content": f"Please rewrite this sentence in the past tense: {sentence}"}
    assert loaded.apply_template is not None
    text = loaded.apply_template((question,), None, enable_thinking=False)
    return list(loaded.tokenizer.encode(text, add_special_tokens=False))


def random_workloads(vocab_size: int, prompt_tokens: int) -> Iterator[Workload]:
    """By how many different tokens the answers are made of, all equally likely."""

    def prompts(generator: random.Random, rows: int) -> list[list[int]]:
        return [generator.choices(range(vocab_size), k=prompt_tokens) for _ in range(rows)]

    yield Workload("every guess is right", prompts, Sampling(temperature=0, logit_bias={300: _ONLY}))
    some = dict.fromkeys(range(300, 305), _ONLY)
    yield Workload(
        "guesses are often made and mostly wrong", prompts, Sampling(temperature=100, seed=1, logit_bias=some)
    )
    yield Workload("there is nothing to guess", prompts, Sampling(temperature=100, seed=1))


def measure(loaded: loader.LoadedModel, workload: Workload, rows: int, output_tokens: int, rounds: int) -> None:
    """Print a line."""
    loops = {on: EngineLoop(loaded, workload.sampling, speculation=on) for on in (False, True)}
    rates: dict[bool, list[float | None]] = {False: [], True: []}
    cpu: dict[bool, list[float | None]] = {False: [], True: []}
    generator = random.Random(0)
    total = drafted = accepted = 0
    for turn in range(_WARM_UP_ROUNDS + rounds):
        ids = workload.prompts(generator, rows)
        before = loops[True].guesses
        for on in (False, True) if turn % 2 else (True, False):
            started = time.process_time()
            answers = loops[on](ids, output_tokens)
            if turn >= _WARM_UP_ROUNDS:
                rates[on].append(figures.throughput(answers))
                cpu[on].append(time.process_time() - started)
        if turn >= _WARM_UP_ROUNDS:
            total += sum(answer.tokens for answer in answers)
            drafted += loops[True].guesses[0] - before[0]
            accepted += loops[True].guesses[1] - before[1]
    cells = [
        workload.name,
        str(rows),
        f"**{figures.ratio(rates[True], rates[False]) or 0:.2f}**",
        f"{figures.ratio(cpu[False], cpu[True]) or 0:.2f}",
        *(f"{figures.middle(rates[on]) or 0:,.0f}" for on in (True, False)),
        f"{accepted / total:.0%}",
        f"{accepted / drafted:.0%}" if drafted else "",
    ]
    print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["demo", "random"])
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--dtype", default="float32", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--rows", default="1,4", type=lambda text: [int(n) for n in text.split(",")])
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    print(
        "| workload | rows | tokens/s: on ÷ off | CPU time: off ÷ on | on | off | guessed tokens of all | of the guesses, right |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")

    def run(loaded: loader.LoadedModel, workload: Workload) -> None:
        for rows in given.rows:
            measure(loaded, workload, rows, given.output_tokens, given.rounds)

    if given.only != "random":
        demo = loader.load(_DEMO, LoadOptions(log_name="demo"), lambda fraction: None)
        run(demo, demo_workload(demo))
    if given.only != "demo":
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder), SHAPES[given.shape], dtype=given.dtype)
            loaded = loader.load(Path(folder), LoadOptions(log_name="random"), lambda fraction: None)
            for workload in random_workloads(loaded.info.vocab_size, given.prompt_tokens):
                run(loaded, workload)


if __name__ == "__main__":
    main()
