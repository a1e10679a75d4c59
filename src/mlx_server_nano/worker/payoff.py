"""Whether caches come sooner from a file than from the model, as both were measured in this process."""

from __future__ import annotations

from typing import Final

_ENOUGH: Final = 256  # tokens; a shorter portion says nothing of long prompts
_FADES: Final = 0.99  # what was best once may be so no more; what was slow once may be faster
_LATEST: Final = 0.5  # the weight of earlier readings beside the latest


class Payoff:
    """The best speed of computing counts, as what disturbs only ever lowers it, and the mean of the latest readings."""

    def __init__(self) -> None:
        # Tokens a second by the power of two that they come behind: the longer the prompt, the slower its attention.
        self._speeds: dict[int, float] = {}
        self._longest = _ENOUGH
        self._bytes = 0.0
        self._seconds = 0.0

    def computed(self, start: int, stop: int, seconds: float) -> None:
        """A prompt's tokens from `start` to `stop` took so long. A short portion takes longer, token by token, than the long ones
        that most of a prompt is computed in: those count that are at least half as long as the longest."""
        if stop - start >= 2 * self._longest:
            self._speeds.clear()
        self._longest = max(self._longest, stop - start)
        if stop - start >= max(_ENOUGH, self._longest / 2):
            power = ((start + stop) // 2).bit_length()
            self._speeds[power] = max((stop - start) / seconds, _FADES * self._speeds.get(power, 0.0))

    def read(self, nbytes: int, seconds: float) -> None:
        """A file of so many bytes took so long."""
        self._bytes = _LATEST * self._bytes + nbytes
        self._seconds = _LATEST * self._seconds + seconds

    def pays(self, nbytes: int, start: int, stop: int) -> bool:
        """Whether to read so many bytes rather than to compute these tokens. True as long as either speed is unknown. Each False
        makes reading look a little faster, so that it is tried again in the end."""
        if not self._speeds or not self._bytes:
            return True
        if nbytes * self._seconds / self._bytes < self._computing(start, stop):
            return True
        self._seconds *= _FADES
        return False

    def _computing(self, start: int, stop: int) -> float:
        """Seconds, by the speeds at the nearest lengths that were measured."""
        seconds = 0.0
        while start < stop:
            power = start.bit_length()
            end = min(stop, 1 << power)
            seconds += (end - start) / self._speeds[min(self._speeds, key=lambda other: abs(other - power))]
            start = end
        return seconds
