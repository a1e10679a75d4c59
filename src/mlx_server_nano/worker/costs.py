"""What a forward pass over several tokens a row costs beside one over a single token, as measured while it runs."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

# Until it is known better: what a step loses when its tokens must be read before the next is launched, and what each
# more token adds. Where weights are read from memory once for all tokens, that is little. One shape that was measured
# tells of the others what a token adds.
_UNREAD: Final = 1.15
_PER_TOKEN: Final = 0.02
_PASS: Final = 0.05  # a pass of a small model, beside reading its weights
_KEPT: Final = 8
_ENOUGH: Final = 2  # one may have been disturbed
_FORGET_AFTER: Final = 256


@dataclass(frozen=True, slots=True)
class Shape:
    """A step's forward pass: rows, and tokens of each. share: bytes of the weights of the model that drafted them, of the
    large one's; 0 where none did."""

    rows: int
    width: int
    share: float = 0.0


class Costs:
    """Durations of the latest steps by shape. The least of them counts: what disturbs a step only ever adds to it."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._seconds: defaultdict[Shape, deque[float]] = defaultdict(lambda: deque(maxlen=_KEPT))
        self._warm: set[Shape] = set()
        self._ahead = False
        self._at: float | None = None
        self._passed_over = 0
        self._per_token = _PER_TOKEN

    def mark(self, shape: Shape | None, *, ahead: bool) -> None:
        """A step of this shape has just been read. None: not just one, or something else took time as well. ahead: the next
        one was launched before.

        A wide step lasts from the last read to its own, as it was launched in between. A plain one does so only while
        every one is launched ahead: only such are what drafts have to beat."""
        now = self._clock()
        if shape is not None and self._at is not None and (shape.width > 1 or (ahead and self._ahead)):
            self._note(shape, now - self._at)
        self._ahead = ahead
        self._at = now if shape is not None else None

    def ratio(self, shape: Shape) -> float:
        """How many times as long as a plain step of as many rows."""
        plain, wide = self._seconds[Shape(shape.rows, 1)], self._seconds[shape]
        if plain and len(wide) >= _ENOUGH:
            return min(wide) / min(plain)
        drafting = (shape.share + _PASS) * (shape.width - 1) if shape.share else 0.0
        return _UNREAD + drafting + self._per_token * _more(shape)

    def pass_over(self, rows: int) -> None:
        """Drafts were left unused, perhaps for what they once cost: now and then that is forgotten, to be measured
        anew."""
        self._passed_over += 1
        if self._passed_over >= _FORGET_AFTER:
            self._passed_over = 0
            self._per_token = _PER_TOKEN
            for shape in [shape for shape in self._seconds if shape.rows == rows and shape.width > 1]:
                del self._seconds[shape]

    def _note(self, shape: Shape, seconds: float) -> None:
        # The first pass of a shape may compile its kernels.
        if shape in self._warm:
            self._seconds[shape].append(seconds)
            known = self._seconds[Shape(shape.rows, 1)] and len(self._seconds[shape]) >= _ENOUGH
            if shape.width > 1 and not shape.share and known:
                self._per_token = max(0.0, self.ratio(shape) - _UNREAD) / _more(shape)
        self._warm.add(shape)


def _more(shape: Shape) -> int:
    """Tokens beyond those of a plain step."""
    return shape.rows * (shape.width - 1)
