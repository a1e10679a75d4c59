"""What a decode step takes: mlx-lm's bare loops, this engine, and this engine with compiled steps, in turn.

    python -m benchmarks.step --shapes 0.6B,8B

All run in this process on the same random weights, made in memory, and the same prompts. One row is held against
`generate_step`, several against `BatchGenerator`. The milliseconds are those of steps with all rows decoding, the median
over the rounds; the ratios are taken within a round. Greedy answers are compared as well: half precision has ties that any
other order of summation breaks differently, so the last columns say how many answers are the same and, of those that are
not, after how many characters they part."""

from __future__ import annotations

import argparse
import dataclasses
import random
import tempfile
import time
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from statistics import median
from typing import Final

import mlx.core as mx
import msgspec
from mlx.utils import tree_flatten
from mlx_lm.generate import BatchGenerator, generate_step

from benchmarks import bare, figures, prompts
from benchmarks.engine import EngineLoop
from benchmarks.figures import Answer
from benchmarks.random_model import SHAPES, Shape, build, make
from mlx_server_nano.protocol import LoadOptions
from mlx_server_nano.types import Sampling
from mlx_server_nano.worker import loader
from mlx_server_nano.worker.compiled import ANY_LENGTH, CompiledStep, Compiles
from mlx_server_nano.worker.direct import direct
from mlx_server_nano.worker.loader import LoadedModel

_WARM_UP_TOKENS: Final = 24
_DTYPES: Final = ("bfloat16", "float16", "float32")
_DRAWN: Final = 1000

Loop = Callable[[list[list[int]], int], tuple[list[Answer], list[str]]]


def bare_loop(loaded: LoadedModel) -> Loop:
    """Rows one at a time with `generate_step` if there is one, else all in a `BatchGenerator`."""

    model, text_of = bare.untouched(loaded.model), loaded.vocabulary.text_of

    def single(ids: list[int], output_tokens: int) -> tuple[Answer, list[int]]:
        sent, arrivals, said = time.monotonic(), [], []
        for token, _ in generate_step(mx.array(ids), model, max_tokens=output_tokens):
            arrivals.append(time.monotonic())
            said.append(int(token))
        return Answer(sent=sent, arrivals=tuple(arrivals), tokens=len(said)), said

    def run(prompt_ids: list[list[int]], output_tokens: int) -> tuple[list[Answer], list[str]]:
        if len(prompt_ids) == 1:
            answer, tokens = single(prompt_ids[0], output_tokens)
            return [answer], [text_of(tokens)]
        generator = BatchGenerator(model, max_tokens=output_tokens, completion_batch_size=len(prompt_ids))
        sent = time.monotonic()
        index = {uid: i for i, uid in enumerate(generator.insert(prompt_ids))}
        arrivals: list[list[float]] = [[] for _ in prompt_ids]
        said: list[list[int]] = [[] for _ in prompt_ids]
        unfinished = len(prompt_ids)
        while unfinished:
            _, responses = generator.next()
            now = time.monotonic()
            for response in responses:
                arrivals[index[response.uid]].append(now)
                said[index[response.uid]].append(int(response.token))
                unfinished -= response.finish_reason is not None
        generator.close()
        return [Answer(sent=sent, arrivals=tuple(times), tokens=len(times)) for times in arrivals], [
            text_of(tokens) for tokens in said
        ]

    return run


def engine_loop(loaded: LoadedModel, compiles: Compiles) -> Loop:
    engine = EngineLoop(loaded, Sampling(temperature=0), compiled=CompiledStep(loaded.model, compiles))

    def run(prompt_ids: list[list[int]], output_tokens: int) -> tuple[list[Answer], list[str]]:
        answers = engine(prompt_ids, output_tokens)
        return answers, engine.texts

    return run


def in_memory(small: LoadedModel, folder: Path, shape: Shape, dtype: str, bits: int) -> LoadedModel:
    """A model of this shape with the tokenizer of `small`, whose folder this is."""
    model, config = build(folder, shape, dtype=dtype, bits=bits)
    direct(model)
    kv_bytes = 2 * shape.layers * shape.kv_heads * shape.head_dim * getattr(mx, dtype).size
    return dataclasses.replace(
        small,
        model=model,
        kv_bytes_per_token=kv_bytes,
        info=msgspec.structs.replace(
            small.info,
            vocab_size=shape.vocab_size,
            context_length=config["max_position_embeddings"],
            weights_bytes=sum(array.nbytes for _, array in tree_flatten(model.parameters())),
        ),
    )


def measure(name: str, loaded: LoadedModel, rows: int, prompt_tokens: int, output_tokens: int, rounds: int) -> None:
    """Print one line."""
    loops = {"bare": bare_loop(loaded)} | {
        which: engine_loop(loaded, compiles)
        for which, compiles in (("plain", Compiles()), ("compiled", Compiles(ANY_LENGTH, ANY_LENGTH)))
    }
    generator = random.Random(0)

    def draw() -> list[list[int]]:
        """Different ones at each call: the engine remembers prefixes."""
        lengths = [prompts.ragged(prompt_tokens, i) if rows > 1 else prompt_tokens for i in range(rows)]
        return [generator.choices(range(3, _DRAWN), k=length) for length in lengths]

    for loop in loops.values():
        loop(draw(), _WARM_UP_TOKENS)
    steps: dict[str, list[float | None]] = {which: [] for which in loops}
    peaks: dict[str, list[float]] = {which: [] for which in loops}
    said: dict[str, list[str]] = {which: [] for which in loops}
    for turn in range(rounds):
        ids = draw()
        order = list(loops) if turn % 2 == 0 else list(reversed(loops))
        for which in order:
            mx.clear_cache()
            mx.reset_peak_memory()
            answers, texts = loops[which](ids, output_tokens)
            full = figures.full_batch_rate(answers, rows)
            steps[which].append(1e3 * rows / full if full else None)
            peaks[which].append(mx.get_peak_memory() / 2**20)
            said[which] += texts
    cells = [name, str(rows), str(prompt_tokens)]
    cells += [f"{figures.middle(steps[which]) or 0:.2f}" for which in loops]
    cells += [f"**{figures.ratio(steps['bare'], steps[which]) or 0:.2f}**" for which in ("plain", "compiled")]
    cells += [f"{median(peaks[which]):,.0f}" for which in loops]
    cells += [_agreement(said["plain"], said["compiled"]), _agreement(said["bare"], said["compiled"])]
    print(f"| {' | '.join(cells)} |", flush=True)


def _agreement(some: list[str], others: list[str]) -> str:
    parted = [
        sum(1 for _ in takewhile(bool, (x == y for x, y in zip(a, b, strict=False))))
        for a, b in zip(some, others, strict=True)
        if a != b
    ]
    return f"{len(some) - len(parted)} of {len(some)}" + (f", others after {median(parted):.0f}" if parted else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="tiny", type=lambda text: text.split(","), help="of " + ", ".join(SHAPES))
    parser.add_argument("--dtype", default="bfloat16", choices=_DTYPES)
    parser.add_argument("--bits", type=int, default=0, choices=[0, 4, 8], help="quantize")
    parser.add_argument("--rows", default="1,8", type=lambda text: [int(n) for n in text.split(",")])
    parser.add_argument("--prompt-tokens", default="300", type=lambda text: [int(n) for n in text.split(",")])
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print(
        "| shape | rows | prompt | ms a step: bare | plain | compiled | bare ÷ plain | bare ÷ compiled "
        "| peak MiB: bare | plain | compiled | same answers: plain and compiled | bare and compiled |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), SHAPES["micro"], dtype="float32")
        small = loader.load(Path(folder), LoadOptions(log_name="step"), lambda fraction: None)
        for name in given.shapes:
            loaded = in_memory(small, Path(folder), SHAPES[name], given.dtype, given.bits)
            for prompt_tokens in given.prompt_tokens:
                for rows in given.rows:
                    measure(name, loaded, rows, prompt_tokens, given.output_tokens, given.rounds)
            del loaded
            mx.clear_cache()


if __name__ == "__main__":
    main()
