"""Whether something grows: a straight line through samples of it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Growth:
    """The line's least-squares fit. rise: from the first sample's time to the last's. seconds: between these."""

    mean: float
    rise: float
    seconds: float

    @property
    def per_hour(self) -> float:
        return self.rise * 3600 / self.seconds

    def within(self, share: float, least: float) -> bool:
        """Whether the rise stays below this share of the mean, or below `least`: an allocator's noise is no growth."""
        return self.rise <= max(share * self.mean, least)


def fit(points: Sequence[tuple[float, float]]) -> Growth | None:
    """`points`: times in seconds and values. None for too few to say anything."""
    if len(points) < 3:
        return None
    times, values = zip(*points, strict=True)
    if times[-1] <= times[0]:
        return None
    slope, _ = statistics.linear_regression(times, values)
    return Growth(statistics.fmean(values), slope * (times[-1] - times[0]), times[-1] - times[0])
