"""What the measured times mean. The same definitions hold for both servers and for the bare loops; all pure."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Sequence
from statistics import median

from msgspec import Struct


class TroubleError(Exception):
    """A request that got no whole answer."""


class RefusedError(TroubleError):
    """A request that was not taken, and may be made again."""


class Answer(Struct, frozen=True, kw_only=True):
    """One streamed answer as its reader saw it, times in seconds on one monotonic clock.

    arrivals: when text came; pieces that came in one read are one arrival. tokens, prompt_tokens, cached_tokens: from
    the usage block; a loop without HTTP counts its own. text: the content alone, without reasoning."""

    sent: float
    arrivals: tuple[float, ...]
    tokens: int
    prompt_tokens: int = 0
    cached_tokens: int = 0
    text: str = ""

    @property
    def first(self) -> float:
        """Time to first token."""
        return self.arrivals[0] - self.sent

    @property
    def gaps(self) -> list[float]:
        return [after - before for before, after in itertools.pairwise(self.arrivals)]


def throughput(answers: Sequence[Answer]) -> float:
    """Tokens per second from the first request to the last token, prefill and stragglers included."""
    return sum(answer.tokens for answer in answers) / (
        max(answer.arrivals[-1] for answer in answers) - min(answer.sent for answer in answers)
    )


def full_batch_rate(answers: Sequence[Answer], rows: int) -> float | None:
    """Tokens per second over the times when at least `rows` answers were between their first and last token: decoding
    without anyone's prefill wait or the ragged end. None if that never was.

    An answer's tokens are spread evenly over its arrivals: a server may send several in one piece."""
    edges = sorted({t for answer in answers for t in (answer.arrivals[0], answer.arrivals[-1])})
    seconds = tokens = 0.0
    for start, end in itertools.pairwise(edges):
        running = [a for a in answers if a.arrivals[0] <= start and end <= a.arrivals[-1]]
        if len(running) >= rows:
            seconds += end - start
            tokens += sum(_tokens_between(answer, start, end) for answer in running)
    return tokens / seconds if seconds else None


def rates_together(answers: Sequence[Answer]) -> list[float] | None:
    """Each answer's tokens per second over the time when all of them were between their first and last token. None if that
    never was."""
    start = max(answer.arrivals[0] for answer in answers)
    end = min(answer.arrivals[-1] for answer in answers)
    return [_tokens_between(answer, start, end) / (end - start) for answer in answers] if end > start else None


def _tokens_between(answer: Answer, start: float, end: float) -> float:
    """After `start`, up to `end`."""
    count = bisect.bisect_right(answer.arrivals, end) - bisect.bisect_right(answer.arrivals, start)
    return count * answer.tokens / len(answer.arrivals)


def gaps_within(streams: Iterable[Sequence[float]], start: float, end: float) -> list[float]:
    """The gaps between these streams' arrivals that overlap the time from `start` to `end`."""
    return [
        after - before
        for arrivals in streams
        for before, after in itertools.pairwise(arrivals)
        if before < end and after > start
    ]


def middle(values: Iterable[float | None]) -> float | None:
    """The median of what was measured; None if nothing was."""
    measured = [value for value in values if value is not None]
    return median(measured) if measured else None


def ratio(ours: Sequence[float | None], theirs: Sequence[float | None]) -> float | None:
    """The median over the rounds of the ratio within a round: a machine that slows down slows both."""
    return middle(a / b if a is not None and b else None for a, b in zip(ours, theirs, strict=False))
