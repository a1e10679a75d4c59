"""python -m training.data: generate shards on all cores. The same seed gives the same shards, whatever the cores."""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer

from training.data import shards
from training.data.mix import conversation

CONVERSATIONS: Final = 8_000  # a shard: about 2 million tokens, 2 MB
TOKENS: Final = 270  # of a conversation, on average


def shard(number: int, *, tokenizer: Path, out: Path, seed: int) -> int:
    """Write one shard, unless it is there. Returns its tokens, 0 for one that was there."""
    path = out / f"{number:05}.npz"
    if path.exists():
        return 0
    made = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    numbers = range(number * CONVERSATIONS, (number + 1) * CONVERSATIONS)
    return shards.write(made, path, (conversation(seed, each) for each in numbers))


def count(text: str) -> int:
    """A number with an optional k, M or G (thousands)."""
    scale = {"k": 10**3, "M": 10**6, "G": 10**9}.get(text[-1:], 1)
    return int(float(text[:-1]) * scale) if scale > 1 else int(text)


def generate(tokenizer: Path, out: Path, tokens: int, seed: int, workers: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # every core has its own shard
    wanted = max(1, round(tokens / (CONVERSATIONS * TOKENS)))
    start, made = time.monotonic(), 0
    make = partial(shard, tokenizer=tokenizer, out=out, seed=seed)
    with ProcessPoolExecutor(workers) as pool:
        for number, held in enumerate(pool.map(make, range(wanted)), 1):
            made += held
            rate = made / (time.monotonic() - start)
            print(f"shard {number}/{wanted}: {made / 1e6:.1f}M tokens, {rate / 1e6:.2f}M/s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.data", description="Generate training data.")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of training.tokenizer")
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards; those there already are kept")
    parser.add_argument("--tokens", type=count, default="100M", help="about how many, as 100M")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    options = parser.parse_args()
    generate(options.tokenizer, options.out, options.tokens, options.seed, options.workers)


if __name__ == "__main__":
    main()
