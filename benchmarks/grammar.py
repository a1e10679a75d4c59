"""What a grammar costs: a batch whose rows all follow a JSON schema over the same batch without, and the first token's delay.

    python -m benchmarks.grammar --shape 8B --tokenizer FOLDER

Random weights, made in memory; the vocabulary is the tokenizer's, so name a real one. The schema allows no end of the
answer, so that rows run to the token limit through objects, short strings, numbers and enums. Both batches run in this
process on the same prompts, in turn; the ratio is taken within a round. The first token's time is that of one row with a
prompt of the given length: without a grammar, with a schema of 50 properties that was never seen, and with it cached."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks import figures, prompts
from benchmarks.engine import EngineLoop
from benchmarks.figures import Answer
from benchmarks.random_model import SHAPES, make
from benchmarks.step import in_memory
from mlx_server_nano.chat.formats import FORMATS
from mlx_server_nano.chat.grammar import answer_grammar, json_body
from mlx_server_nano.protocol import LoadOptions
from mlx_server_nano.types import Constraint, Sampling
from mlx_server_nano.worker import loader
from mlx_server_nano.worker.grammar import RowGrammar
from mlx_server_nano.worker.loader import LoadedModel

_DRAWN: Final = 1000
_WARM_UP_TOKENS: Final = 16
_VOCABULARY: Final = 151_936


def endless() -> dict[str, Any]:
    """A list of at least a thousand records."""
    word = {"type": "string", "maxLength": 24}
    record = {
        "name": word,
        "kind": {"enum": ["person", "place", "thing"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 99_999},
        "known": {"type": "boolean"},
        "tags": {"type": "array", "items": word, "minItems": 1, "maxItems": 3},
    }
    items = {"type": "object", "properties": record, "required": list(record), "additionalProperties": False}
    return {"type": "array", "items": items, "minItems": 1000}


def wide(number: int) -> dict[str, Any]:
    """50 properties of several kinds; every number is another schema."""
    kinds: list[dict[str, Any]] = [
        {"type": "string"},
        {"type": "integer"},
        {"enum": ["low", "middle", "high"]},
        {"type": "array", "items": {"type": "number"}},
        {"type": "object", "properties": {"at": {"type": "string"}, "on": {"type": "boolean"}}, "required": ["at"]},
    ]
    fields = {f"field_{number}_{i}": kinds[i % len(kinds)] for i in range(50)}
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def compiler(loaded: LoadedModel, schema: dict[str, Any]) -> Callable[[], RowGrammar]:
    """Compiles the schema as the preparer's thread does, from the text that the gateway sends."""
    text = answer_grammar(FORMATS["plain"], json_body(schema), special_tokens={})
    return lambda: loaded.grammars.compile(Constraint(grammar=text), "")


def batch(loaded: LoadedModel, rows: int, prompt_tokens: int, output_tokens: int, rounds: int) -> None:
    """Print a line for the batch."""
    engine, grammar = EngineLoop(loaded, Sampling(temperature=0)), compiler(loaded, endless())
    generator = random.Random(0)

    def draw() -> list[list[int]]:
        return [generator.choices(range(3, _DRAWN), k=prompts.ragged(prompt_tokens, i)) for i in range(rows)]

    kinds: dict[str, Callable[[], RowGrammar] | None] = {"free": None, "held": grammar}
    rates: dict[str, list[float | None]] = {which: [] for which in kinds}
    for given in kinds.values():
        engine(draw(), _WARM_UP_TOKENS, given)
    for turn in range(rounds):
        ids = draw()
        for which in sorted(kinds, reverse=turn % 2 == 1):
            rates[which].append(figures.full_batch_rate(engine(ids, output_tokens, kinds[which]), rows))
    free, held = (figures.middle(rates[which]) or 0 for which in kinds)
    ratio = figures.ratio(rates["held"], rates["free"]) or 0
    print(f"| {rows} rows | {free:,.0f} tok/s without | {held:,.0f} tok/s with | **{ratio:.2f}** |", flush=True)


def first_token(loaded: LoadedModel, prompt_tokens: int, rounds: int) -> None:
    """Print a line for each kind of schema."""
    engine, generator, numbers = EngineLoop(loaded, Sampling(temperature=0)), random.Random(1), itertools.count()

    def once(grammar: Callable[[], RowGrammar] | None) -> Answer:
        return engine([generator.choices(range(3, _DRAWN), k=prompt_tokens)], 2, grammar)[0]

    known = compiler(loaded, wide(next(numbers)))
    once(known)
    times: dict[str, list[float]] = {"no schema": [], "a new schema": [], "a cached schema": []}
    for _ in range(rounds):
        times["no schema"].append(once(None).first)
        times["a new schema"].append(once(compiler(loaded, wide(next(numbers)))).first)
        times["a cached schema"].append(once(known).first)
    for kind, seconds in times.items():
        print(f"| first token, {kind} | {1e3 * median(seconds):.1f} ms |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--tokenizer", type=Path, metavar="FOLDER", help="whose vocabulary to take")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=230)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    shape, thin = (dataclasses.replace(SHAPES[name], vocab_size=_VOCABULARY) for name in (given.shape, "micro"))
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), thin, tokenizer=given.tokenizer, dtype="float32")
        small = loader.load(Path(folder), LoadOptions(log_name="grammar"), lambda fraction: None)
        loaded = in_memory(small, Path(folder), shape, given.dtype, 0)
        batch(loaded, given.rows, given.prompt_tokens, given.output_tokens, given.rounds)
        first_token(loaded, given.prompt_tokens, 2 * given.rounds + 1)


if __name__ == "__main__":
    main()
