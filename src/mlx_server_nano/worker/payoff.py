"""Whether caches come sooner from a file than from the model, as both were measured on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from msgspec import DecodeError, Meta, Struct, field, json

from mlx_server_nano.worker import kvfile

_ENOUGH: Final = 256  # tokens; a shorter portion says nothing of long prompts
_FADES: Final = 0.99  # what was best once may be so no more; what was slow once may be faster
_LATEST: Final = 0.5  # the weight of earlier readings beside the latest


class Payoff(Struct):
    """The best speed of computing counts, as what disturbs only ever lowers it, and the mean of the latest readings.

    speeds: tokens a second by the power of two that they come behind, as attention takes longer the longer the prompt. longest:
    tokens of a portion of a prompt. nbytes, seconds: of the latest readings."""

    speeds: dict[int, Annotated[float, Meta(gt=0)]] = field(default_factory=dict)
    longest: int = _ENOUGH
    nbytes: Annotated[float, Meta(ge=0)] = 0.0
    seconds: Annotated[float, Meta(ge=0)] = 0.0

    @classmethod
    def load(cls, path: Path) -> Payoff:
        """What an earlier process saved; where there is nothing of use, nothing is known."""
        try:
            return json.decode(path.read_bytes(), type=cls)
        except (OSError, DecodeError):
            return cls()

    def save(self, path: Path) -> None:
        """Raises OSError."""
        kvfile.replace(path, json.encode(self))

    def computed(self, start: int, stop: int, seconds: float) -> None:
        """A prompt's tokens from `start` to `stop` took so long. A short portion takes longer, token by token, than the long ones
        that most of a prompt is computed in: those count that are at least half as long as the longest."""
        if stop - start >= 2 * self.longest:
            self.speeds.clear()
        self.longest = max(self.longest, stop - start)
        if stop - start >= max(_ENOUGH, self.longest / 2):
            power = ((start + stop) // 2).bit_length()
            self.speeds[power] = max((stop - start) / seconds, _FADES * self.speeds.get(power, 0.0))

    def read(self, nbytes: int, seconds: float) -> None:
        """A file of so many bytes took so long."""
        self.nbytes = _LATEST * self.nbytes + nbytes
        self.seconds = _LATEST * self.seconds + seconds

    def pays(self, nbytes: int, start: int, stop: int) -> bool:
        """Whether to read so many bytes, or to write them to be read, rather than to compute these tokens. True as long as either
        speed is unknown. Each False makes reading look a little faster, so that it is tried again in the end."""
        if not self.speeds or not self.nbytes:
            return True
        if nbytes * self.seconds / self.nbytes < self._computing(start, stop):
            return True
        self.seconds *= _FADES
        return False

    def _computing(self, start: int, stop: int) -> float:
        """Seconds, by the speeds at the nearest lengths that were measured."""
        seconds = 0.0
        while start < stop:
            power = start.bit_length()
            end = min(stop, 1 << power)
            seconds += (end - start) / self.speeds[min(self.speeds, key=lambda other: abs(other - power))]
            start = end
        return seconds
