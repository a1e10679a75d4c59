"""The worker's engine loop beside mlx-lm's loops, without HTTP or processes: what scheduling alone costs.

    python -m benchmarks.engine --shape micro --rows 1,8,32 [--profile]

All three run in this process on the same weights and prompts, in turn."""

from __future__ import annotations

import argparse
import cProfile
import pstats
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper

from benchmarks import bare, figures, prompts
from benchmarks.figures import Answer
from benchmarks.random_model import SHAPES, make
from mlx_server_nano.protocol import Delta, LoadOptions, to_frame
from mlx_server_nano.types import GenerationRequest, Sampling, TokenPrompt
from mlx_server_nano.worker import loader
from mlx_server_nano.worker.channel import Inbox
from mlx_server_nano.worker.compiled import CompiledStep
from mlx_server_nano.worker.engine import Engine, Incoming
from mlx_server_nano.worker.grammar import RowGrammar
from mlx_server_nano.worker.scheduler import Prepared

_WARM_UP_TOKENS = 8


class _Clock:
    """Stands in for the channel to the gateway: encodes a step as it would and notes when each request's text came."""

    def __init__(self) -> None:
        self.arrivals: dict[int, list[float]] = {}
        self.tokens: dict[int, int] = {}
        self.drafted = 0
        self.accepted = 0
        self.texts: dict[int, str] = {}

    def send(self, step: Any) -> None:
        to_frame(step)
        now = time.monotonic()
        self.drafted += step.drafted_tokens
        self.accepted += step.accepted_tokens
        for event in step.events:
            if isinstance(event, Delta):
                self.arrivals.setdefault(event.request_id, []).append(now)
                self.tokens[event.request_id] = self.tokens.get(event.request_id, 0) + event.tokens
                self.texts[event.request_id] = self.texts.get(event.request_id, "") + event.text

    def take(self) -> tuple[dict[int, list[float]], dict[int, int], dict[int, str]]:
        """Arrivals, token counts and texts by request; starts anew."""
        noted = self.arrivals, self.tokens, self.texts
        self.arrivals, self.tokens, self.texts = {}, {}, {}
        return noted


class EngineLoop:
    """The engine as a worker runs it, turned by hand. Without speculation unless it is asked for: random models soon
    repeat themselves, which is not to be compared with loops that don't guess. `texts`: what it answered last."""

    def __init__(
        self,
        loaded: loader.LoadedModel,
        sampling: Sampling,
        *,
        speculation: bool = False,
        compiled: CompiledStep | None = None,
    ) -> None:
        self._clock = _Clock()
        self._inbox: Inbox[Incoming] = Inbox()
        self._sampling = sampling
        self.texts: list[str] = []
        options = LoadOptions(log_name="engine", speculation=speculation)
        self._engine = Engine(loaded, options, self._clock, self._inbox, compiled=compiled)  # type: ignore[arg-type]

    @property
    def guesses(self) -> tuple[int, int]:
        """Tokens that were drafted so far, and those of them that were accepted."""
        return self._clock.drafted, self._clock.accepted

    def __call__(
        self, prompt_ids: list[list[int]], output_tokens: int, grammar: Callable[[], RowGrammar] | None = None
    ) -> list[Answer]:
        """grammar: makes each row's, on the clock."""
        sent = time.monotonic()
        for i, ids in enumerate(prompt_ids):
            request = GenerationRequest(
                prompt=TokenPrompt(ids=tuple(ids)), max_tokens=output_tokens, sampling=self._sampling
            )
            held = grammar() if grammar else None
            self._inbox.put(
                Prepared(request_id=i, request=request, ids=ids, tail="", continues_text=False, grammar=held)
            )
        self._engine.turn(wait=True)
        while not self._engine.idle:
            self._engine.turn(wait=False)
        arrivals, tokens, texts = self._clock.take()
        self.texts = [texts[i] for i in range(len(prompt_ids))]
        return [
            Answer(sent=sent, arrivals=tuple(arrivals[i]), tokens=tokens[i], prompt_tokens=len(ids))
            for i, ids in enumerate(prompt_ids)
        ]


Loop = Callable[[list[list[int]], int], list[Answer]]


class Measured:
    """One loop's figures, a list entry a round. steps: microseconds per step with all rows decoding. rates: tokens per second
    with prefill and ragged end. cpu: microseconds of the process's CPU time per token, which other processes on the machine
    disturb least."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.steps: list[float | None] = []
        self.rates: list[float | None] = []
        self.cpu: list[float | None] = []

    def round(self, prompt_ids: list[list[int]], output_tokens: int) -> None:
        started = time.process_time()
        answers = self._loop(prompt_ids, output_tokens)
        self.cpu.append(1e6 * (time.process_time() - started) / sum(answer.tokens for answer in answers))
        rows = len(prompt_ids)
        full = figures.full_batch_rate(answers, rows)
        self.steps.append(1e6 * rows / full if full else None)
        self.rates.append(figures.throughput(answers))


def measure(folder: Path, rows: list[int], prompt_tokens: int, output_tokens: int, rounds: int, profile: bool) -> None:
    """Print a line for each number of rows."""
    loaded = loader.load(folder, LoadOptions(log_name="engine"), lambda fraction: None)
    engine = EngineLoop(loaded, Sampling(temperature=0))
    untouched = bare.untouched(loaded.model)
    wrapper = TokenizerWrapper(loaded.tokenizer)
    generator = random.Random(0)

    def single(prompt_ids: list[list[int]], output_tokens: int) -> list[Answer]:
        return [bare.single(untouched, wrapper, ids, output_tokens) for ids in prompt_ids]

    def prompt_ids(count: int) -> list[list[int]]:
        """Different ones at each call: the engine remembers prefixes."""
        lengths = [prompts.ragged(prompt_tokens, i) for i in range(count)]
        return [generator.choices(range(loaded.info.vocab_size), k=length) for length in lengths]

    print("| rows | bare loop | step: engine | bare | ratio | CPU a token: engine | bare | ratio | tok/s: ratio |")
    print("|---:|---|---:|---:|---:|---:|---:|---:|---:|")
    for count in rows:
        loop = single if count == 1 else partial(bare.batch, untouched)
        ours, theirs = Measured(engine), Measured(loop)
        engine(prompt_ids(count), _WARM_UP_TOKENS)
        loop(prompt_ids(count), _WARM_UP_TOKENS)
        for _ in range(rounds):
            ids = prompt_ids(count)
            ours.round(ids, output_tokens)
            theirs.round(ids, output_tokens)
        cells = [
            str(count),
            "`stream_generate`" if count == 1 else "`BatchGenerator`",
            *(_cell(figures.middle(measured.steps), "µs") for measured in (ours, theirs)),
            _cell(figures.ratio(ours.steps, theirs.steps)),
            *(_cell(figures.middle(measured.cpu), "µs") for measured in (ours, theirs)),
            _cell(figures.ratio(ours.cpu, theirs.cpu)),
            _cell(figures.ratio(ours.rates, theirs.rates)),
        ]
        print(f"| {' | '.join(cells)} |", flush=True)
        if profile:
            with cProfile.Profile() as profiler:
                engine(prompt_ids(count), output_tokens)
            pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


def _cell(value: float | None, unit: str = "") -> str:
    """Empty if the rows never decoded all together: more output tokens are needed."""
    if value is None:
        return ""
    return f"{value:,.0f} {unit}" if unit else f"**{value:.2f}**"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="instead of a random model")
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--dtype", default="float32", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--rows", default="1,8,32", type=lambda text: [int(n) for n in text.split(",")])
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="print where one more run spends its time")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.model or Path(temporary)
        if given.model is None:
            make(folder, SHAPES[given.shape], dtype=given.dtype)
        measure(folder, given.rows, given.prompt_tokens, given.output_tokens, given.rounds, given.profile)


if __name__ == "__main__":
    main()
