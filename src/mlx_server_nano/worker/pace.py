"""How often rows with much to read take a step while rows with little wait for them.

If all groups take part in every pass, a row of 64 tokens goes as slowly as one of 32,000 beside it. How slow that is depends on
the model and the device. Where reading the weights is most of the work it is little, and nobody sits out; else the long rows
leave out as many steps as it takes for the short ones to keep most of their own speed. What steps take with the long rows
and without them is measured while they run."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mlx_server_nano.worker.group import Group

# What short rows keep of their own speed; long ones get the rest of the time.
_KEPT: Final = 0.75
# Groups that read so many times as much as the shortest may sit out.
_LONG: Final = 4
_MOST: Final = 64  # long rows take a step in so many at least
_ENOUGH: Final = 3  # the first of a kind may compile its kernels
_LATEST: Final = 8
_FORGET_AFTER: Final = 256  # steps


class Pace:
    """Chooses the groups of each step. The least of the durations that were measured counts: what disturbs a step only ever adds
    to it. The time until a step is read is the device's for that step or the host's for launching the next: it tells of a kind
    of step where both are of it. Therefore long rows take two steps in a row."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._company: dict[int, int] = {}  # the groups' rows, by their identity: no caches are to be held here
        self._all: deque[float] = deque(maxlen=_LATEST)
        self._short: deque[float] = deque(maxlen=_LATEST)
        self._short_since = 0
        self._turn = 0
        self._ahead = False
        self._at: float | None = None

    def due(self, groups: list[Group]) -> list[Group]:
        """Those that take the next step."""
        company = {id(group): len(group) for group in groups} if len(groups) > 1 else {}
        if company != self._company:
            self._company = company
            self._all.clear()
            self._short.clear()
        if not company:
            return groups
        least = min(group.reach for group in groups)
        short = [group for group in groups if group.reach < _LONG * least]
        self._turn += 1
        if len(short) == len(groups) or self._turn >= 2 * self._every():
            self._turn = 0
        return groups if self._launched_all else short

    @property
    def _launched_all(self) -> bool:
        """Whether the step launched last is of all groups."""
        return self._turn < 2

    def mark(self, read: list[Group], *, ahead: bool) -> None:
        """A step of these groups has just been read; none: or something else took time as well. ahead: the next one was launched
        before."""
        now = self._clock()
        if read and self._company and self._at is not None and ahead and self._ahead:
            whole = self._company.keys() <= {id(group) for group in read}
            if whole == self._launched_all:
                (self._all if whole else self._short).append(now - self._at)
            self._short_since = self._short_since + 1 if whole else 0
            if self._short_since >= _FORGET_AFTER:
                self._short_since = 0
                self._short.clear()
        self._ahead = ahead
        self._at = now if read else None

    def _every(self) -> int:
        """One step in so many is of all groups, on average."""
        if len(self._all) < _ENOUGH:
            return 1
        if len(self._short) < _ENOUGH:
            return _ENOUGH
        ratio = min(self._all) / min(self._short)
        return max(1, min(_MOST, math.ceil((ratio - 1) * _KEPT / (1 - _KEPT))))
