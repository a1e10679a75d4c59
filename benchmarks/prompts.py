"""Prompts of a wanted length in made-up words, different for every seed, so that no prefix cache can help."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

_CONSONANTS = ["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z"]
_VOWELS = ["a", "e", "i", "o", "u"]
_SYLLABLES = ["".join(pair) for pair in itertools.product(_CONSONANTS, _VOWELS)]
WORDS = ["".join(parts) for parts in itertools.product(_SYLLABLES[::3], _SYLLABLES[1::3], ["", "n", "ri"])]
_SAMPLE_WORDS = 400


def text(seed: int, words: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def tokens_per_word(model: Path) -> float:
    """What one word of `text` takes with the tokenizer of a model folder."""
    from tokenizers import Tokenizer

    tokenizer: Any = Tokenizer.from_file(str(model / "tokenizer.json"))
    return len(tokenizer.encode(text(0, _SAMPLE_WORDS), add_special_tokens=False).ids) / _SAMPLE_WORDS


def ragged(words: int, index: int) -> int:
    """Lengths around `words`, from half to one and a half times it: a batch in service is never level."""
    return max(1, round(words * (0.5 + (index * 7 % 16) / 15)))
