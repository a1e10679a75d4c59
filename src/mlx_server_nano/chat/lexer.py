"""Reading text that arrives in pieces: the primitives under the format machine.

A reader is a generator: it yields when it needs more text and goes on from there, so nothing is ever read twice. Every
decision depends on the text alone, never on where a piece ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")
Step = Generator[None, None, T]
Emit = Callable[[str], None]


class Markers:
    """A set of strings to look for. Where several match at one place, the longest counts."""

    __slots__ = ("_first", "_pattern", "longest", "texts")

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = tuple(sorted({t for t in texts if t}, key=lambda t: (-len(t), t)))
        self._first = frozenset(t[0] for t in self.texts)
        self.longest = len(self.texts[0]) if self.texts else 0
        self._pattern = re.compile("|".join(map(re.escape, self.texts)) or r"(?!)")

    def find(self, text: str, start: int, closed: bool) -> tuple[int, str]:
        """The first marker at or after `start`: (index, marker). (index, "") if none is certain yet: then the text up to
        index holds none, and at index one may begin."""
        match = self._pattern.search(text, start)
        limit = match.start() if match else len(text)
        if not closed:
            for index in range(max(start, len(text) - self.longest + 1), min(limit + 1, len(text))):
                if text[index] in self._first and self._may_grow(text[index:]):
                    return index, ""
        return limit, match.group() if match else ""

    def at(self, text: str, start: int, closed: bool) -> str | None:
        """The marker exactly at `start`, "" for none, None if that is not certain yet."""
        tail = text[start : start + self.longest]
        if not closed and self._may_grow(tail):
            return None
        match = self._pattern.match(text, start)
        return match.group() if match else ""

    def _may_grow(self, tail: str) -> bool:
        return any(len(text) > len(tail) and text.startswith(tail) for text in self.texts)


@lru_cache(maxsize=1024)
def markers(*texts: str) -> Markers:
    return Markers(texts)


class Source:
    """The text received and not yet consumed. Positions are counted from the very first character."""

    __slots__ = ("_dropped", "_kept", "_pos", "_text", "closed")

    def __init__(self) -> None:
        self._text = ""
        self._dropped = 0
        self._pos = 0
        self._kept: int | None = None
        self.closed = False

    def push(self, text: str) -> None:
        """Append text. What is consumed and not marked is forgotten."""
        start = self._pos if self._kept is None else self._kept - self._dropped
        buffer, self._text = self._text, ""
        if start:
            buffer = buffer[start:]
            self._dropped += start
            self._pos -= start
        # The only reference: CPython then appends in place, so a long held-back text costs linear time.
        buffer += text
        self._text = buffer

    def mark(self) -> int:
        """Remember this position, so that `rewind` and `since` can go back to it until `release`."""
        position = self._dropped + self._pos
        if self._kept is None:
            self._kept = position
        return position

    def release(self) -> None:
        self._kept = None

    def rewind(self, position: int) -> None:
        self._pos = position - self._dropped

    def back(self, text: str) -> None:
        """Give back what was just consumed."""
        self._pos -= len(text)

    def since(self, position: int) -> str:
        """The text from a marked position up to here."""
        return self._text[position - self._dropped : self._pos]

    def until(self, wanted: Markers, emit: Emit) -> Step[str]:
        """Pass text on up to the first marker and consume that too. Returns it, or "" at the end of the text."""
        while True:
            index, marker = wanted.find(self._text, self._pos, self.closed)
            if index > self._pos:
                emit(self._text[self._pos : index])
            self._pos = index + len(marker)
            if marker or self.closed:
                return marker
            yield

    def within(self, wanted: Markers, limit: int) -> Step[tuple[str, str]]:
        """The text before the first marker, and the marker, both consumed; (rest, "") if none comes within `limit`
        characters: then, if that is for the text's end, the rest is consumed."""
        while True:
            # One more than the limit: enough to see that it is exceeded.
            ahead = self._text[self._pos : self._pos + limit + wanted.longest + 1]
            index, marker = wanted.find(ahead, 0, self.closed)
            if index > limit:
                return "", ""
            if marker or self.closed:
                self._pos += index + len(marker)
                return ahead[:index], marker
            yield

    def match(self, wanted: Markers) -> Step[str]:
        """Consume the marker that stands here. Returns it, or "" if there is none."""
        while True:
            marker = wanted.at(self._text, self._pos, self.closed)
            if marker is not None:
                self._pos += len(marker)
                return marker
            yield

    def skip_to(self, wanted: Markers) -> Step[str]:
        """Consume a marker together with the whitespace before it; nothing if none stands there."""
        outer = self._kept
        position = self.mark()
        yield from self.space()
        found = yield from self.match(wanted)
        if not found:
            self.rewind(position)
        self._kept = outer
        return found

    def peek(self) -> Step[str]:
        """The next character, not consumed; "" at the end of the text."""
        while self._pos == len(self._text) and not self.closed:
            yield
        return self._text[self._pos : self._pos + 1]

    def take(self) -> Step[str]:
        """The next character, consumed; "" at the end of the text."""
        char = yield from self.peek()
        self._pos += len(char)
        return char

    def run(self, pattern: re.Pattern[str], limit: int | None = None) -> Step[str]:
        """Consume and return the longest run of characters that each match `pattern` (a repeated class), up to `limit`."""
        taken = ""
        while True:
            match = pattern.match(self._text, self._pos)
            piece = match.group() if match else ""
            taken += piece
            self._pos += len(piece)
            if self._pos < len(self._text) or self.closed or (limit is not None and len(taken) > limit):
                return taken
            yield

    def skip(self, pattern: re.Pattern[str]) -> Step[None]:
        """As `run`, with nothing returned."""
        while True:
            match = pattern.match(self._text, self._pos)
            self._pos = match.end() if match else self._pos
            if self._pos < len(self._text) or self.closed:
                return
            yield

    def space(self) -> Step[None]:
        """Skip whitespace."""
        yield from self.skip(_SPACE)


_SPACE = re.compile(r"\s*")


def drop(_: str) -> None:
    """An `Emit` for text that nobody wants."""
