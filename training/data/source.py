"""The one source of randomness, split so that held-out conversations share no name, schema or wording with training.

Every generated word, identifier and expanded wording has a side, told by its hash. A source for one side only ever
draws from that side, so disjointness holds by construction and not by bookkeeping.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import cache
from random import Random
from typing import Final, TypeVar
from zlib import crc32

from training.data import words

T = TypeVar("T")

HELD_OUT_ONE_IN: Final = 8
ATTEMPTS: Final = 400


class Split(StrEnum):
    TRAIN = "train"
    HELD_OUT = "held_out"


def side(text: str) -> Split:
    """The side a text belongs to. Case and punctuation don't count, so no near copy lands on the other side."""
    key = re.sub(r"[\W_]+", " ", text.lower()).strip()
    return Split.HELD_OUT if (crc32(key.encode()) >> 8) % HELD_OUT_ONE_IN == 0 else Split.TRAIN


@cache
def _pieces(pattern: str) -> tuple[str, tuple[tuple[str, ...], ...]]:
    """A pattern as a format string with numbered gaps, and the options of each gap."""
    gaps: list[tuple[str, ...]] = []

    def gap(match: re.Match[str]) -> str:
        gaps.append(tuple(match[1].split("|")))
        return f"\0{len(gaps) - 1}\0"

    return re.sub(r"\[([^\[\]]*)\]", gap, pattern), tuple(gaps)


class Source:
    """Draws of one split. Two sources of the same seed and split draw the same."""

    def __init__(self, seed: str, split: Split) -> None:
        self.split = split
        self.random = Random(f"{split}:{seed}")

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def integer(self, low: int, high: int) -> int:
        return self.random.randint(low, high)

    def choice(self, options: Sequence[T]) -> T:
        return options[int(self.random.random() * len(options))]

    def sample(self, options: Sequence[T], count: int) -> list[T]:
        return self.random.sample(options, count)

    def shuffled(self, options: Sequence[T]) -> list[T]:
        return self.random.sample(options, len(options))

    def ours(self, text: str) -> bool:
        """Whether a text may appear on this side."""
        return side(text) is self.split

    def until(self, draw: Callable[[], T], good: Callable[[T], bool]) -> T:
        """Draw until it is good. Raises LookupError when that does not come: a list is too short for both sides."""
        for _ in range(ATTEMPTS):
            value = draw()
            if good(value):
                return value
        raise LookupError(f"nothing on the {self.split} side after {ATTEMPTS} draws, the last being {value!r}")

    def expand(self, pattern: str) -> str:
        """Choose in each `[this|that|]` of a pattern; they nest. `{slots}` stay."""
        while "[" in pattern:
            template, gaps = _pieces(pattern)
            for index, options in enumerate(gaps):
                template = template.replace(f"\0{index}\0", self.choice(options), 1)
            pattern = template
        return pattern

    def wording(self, patterns: Sequence[str], /, **slots: object) -> str:
        """One of the patterns, expanded to a wording of this side, with its slots filled."""
        chosen = self.until(lambda: self.expand(self.choice(patterns)), self.ours)
        return chosen.format(**slots)

    def reply(self, patterns: Sequence[str], /, **slots: object) -> str:
        """As `wording`, for what the assistant says: the same on both sides."""
        return self.expand(self.choice(patterns)).format(**slots)

    def word(self) -> str:
        """A lower-case pseudo-word."""
        return self.until(self._word, self.ours)

    def _word(self) -> str:
        roll = self.random.random()
        if roll < 0.06:
            return "".join(self.random.choices("abcdefghijklmnopqrstuvwxyz", k=self.integer(3, 7)))
        syllables = 1 if roll < 0.12 else 2 if roll < 0.75 else 3
        body = "".join(self.choice(words.ONSETS) + self.choice(words.VOWELS) for _ in range(syllables))
        return body + self.choice(words.CODAS if roll < 0.8 else words.SUFFIXES)

    def name(self) -> str:
        """A capitalised name: mostly made up, sometimes a real given name, sometimes with a surname or a foreign letter."""
        first = self._name(words.GIVEN_NAMES)
        return first if self.chance(0.75) else f"{first} {self._name(words.SURNAMES)}"

    def _name(self, real: Sequence[str]) -> str:
        if self.chance(0.35):
            return self.until(lambda: self.choice(real), self.ours)
        word = self.word().capitalize()
        if self.chance(0.04):
            return self.until(lambda: self._accented(self.word().capitalize()), self.ours)
        return word

    def _accented(self, word: str) -> str:
        letter = self.choice([c for c in word[1:] if c in words.ACCENTS] or [""])
        return word[0] + word[1:].replace(letter, self.choice(words.ACCENTS[letter]), 1) if letter else word

    def place(self) -> str:
        if self.chance(0.35):
            return self.until(lambda: self.choice(words.PLACES), self.ours)
        ending = self.choice(words.PLACE_ENDINGS) if self.chance(0.3) else ""
        place = self.until(lambda: self._word() + ending, self.ours).capitalize()
        return f"{self.choice(words.PLACE_PREFIXES)} {place}" if self.chance(0.08) else place

    def names(self, count: int) -> list[str]:
        """Different names, no two with the same first word."""
        found: dict[str, str] = {}
        while len(found) < count:
            name = self.name()
            found.setdefault(name.split()[0], name)
        return list(found.values())

    def words(self, count: int) -> list[str]:
        found: dict[str, None] = {}
        while len(found) < count:
            found.setdefault(self.word())
        return list(found)

    def thing(self) -> str:
        """A noun: a common one, which both sides share, or a made-up one."""
        return self.choice(words.THINGS) if self.chance(0.4) else self.word()

    def phrase(self, low: int = 1, high: int = 3) -> str:
        """A few words, common or made up, at least one of this side alone."""
        count = self.integer(low, high)
        chosen = [self.thing() for _ in range(count - 1)]
        chosen.insert(self.integer(0, count - 1), self.word())
        return " ".join(chosen)
