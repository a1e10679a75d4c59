"""Training data on disk: shards of tokenized conversations, each a compressed NumPy archive.

A shard holds `tokens` (uint16, all conversations end to end), `lengths` and `prompts` (uint16: tokens of each conversation,
and how many of them are its prompt, on which no answer is learnt). Shards appear whole, by renaming, so a trainer may read a
folder that is still being filled.

    python -m training.data --tokenizer DIR --out DIR --tokens 100M
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from training.data.conversation import Conversation
from training.render import split_last

LONGEST: Final = 1280
CHUNK: Final = 256  # conversations tokenized at once


@dataclass(frozen=True, slots=True)
class Sample:
    """One conversation in tokens, the first `prompt` of which are given."""

    tokens: NDArray[np.uint16]
    prompt: int


def samples(tokenizer: Tokenizer, conversations: Iterator[Conversation]) -> Iterator[Sample]:
    """Those that fit into LONGEST tokens. Prompt and answer are tokenized apart, as in serving."""
    while chunk := [c for c, _ in zip(conversations, range(CHUNK), strict=False)]:
        texts = [split_last(c.messages, c.tools, c.thinking) for c in chunk]
        prompts = tokenizer.encode_batch_fast([prompt for prompt, _ in texts], add_special_tokens=False)
        answers = tokenizer.encode_batch_fast([answer for _, answer in texts], add_special_tokens=False)
        for prompt, answer in zip(prompts, answers, strict=True):
            ids = prompt.ids + answer.ids
            if len(ids) <= LONGEST:
                yield Sample(np.array(ids, np.uint16), len(prompt.ids))


def write(tokenizer: Tokenizer, path: Path, conversations: Iterator[Conversation]) -> int:
    """A shard of all conversations that are short enough; how many tokens it holds."""
    made = list(samples(tokenizer, conversations))
    partial = path.with_suffix(".part")
    with partial.open("wb") as file:
        np.savez_compressed(
            file,
            tokens=np.concatenate([sample.tokens for sample in made]),
            lengths=np.array([len(sample.tokens) for sample in made], np.uint16),
            prompts=np.array([sample.prompt for sample in made], np.uint16),
        )
    partial.rename(path)
    return sum(len(sample.tokens) for sample in made)


def read(path: Path) -> list[Sample]:
    with np.load(path) as shard:
        pieces = np.split(shard["tokens"], np.cumsum(shard["lengths"][:-1], dtype=np.int64))
        return [Sample(tokens, int(prompt)) for tokens, prompt in zip(pieces, shard["prompts"], strict=True)]
