"""What the clients met, and whether it had a right to happen."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

_KEPT: Final = 30
# Seconds in which a kill explains that no worker can be started: the next try comes after a pause that grows.
_RESTART_SECONDS: Final = 40.0
_SLACK: Final = 0.5
_LINE: Final = 1500


class RefusedError(Exception):
    """An error that the server answered with. `code` tells its kind in all dialects; `status` is 200 for one in a stream, and
    `body` is as it came."""

    def __init__(self, status: int, code: str | None, body: str) -> None:
        super().__init__(f"{status} {code}: {body}")
        self.code = code


class WrongError(Exception):
    """An answer that is not what it should be."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that was done to the server, on time.monotonic's clock."""

    what: str
    start: float
    end: float
    kills: bool = False


@dataclass(slots=True)
class Journal:
    """The lists of lines hold the first few of what must not happen, each with the faults that were under way."""

    faults: list[Fault] = field(default_factory=list)
    phases: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    excused: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)

    @property
    def kills(self) -> list[float]:
        """When workers were killed."""
        return [fault.start for fault in self.faults if fault.kills]

    def killed(self, worker: int, phase: str) -> None:
        now = time.monotonic()
        self.faults.append(Fault(f"worker {worker} killed ({phase})", now, now, kills=True))
        self.phases[phase] += 1

    def befell(self, what: str, start: float) -> None:
        """A fault that has just ended."""
        self.faults.append(Fault(what, start, time.monotonic()))

    def refused(self, what: str, sent: float, error: RefusedError) -> None:
        """Take note of an error; it is excused if a kill explains it, or the memory limit."""
        now = time.monotonic()
        reasons = {
            "worker_died": any(sent - _SLACK <= kill for kill in self.kills),
            "unavailable": any(now - _RESTART_SECONDS <= kill for kill in self.kills),
            "insufficient_memory": True,
        }
        if reasons.get(error.code or "", False):
            self.excused[str(error.code)] += 1
        else:
            self._keep(self.unexplained, what, sent, str(error))

    def failed(self, what: str, sent: float, error: Exception) -> None:
        """A client's end that no server's answer explains."""
        kept = self.wrong if isinstance(error, WrongError) else self.unexplained
        self._keep(kept, what, sent, f"{type(error).__name__}: {error}")

    def hung(self, what: str, sent: float) -> None:
        self._keep(self.stuck, what, sent, "no end")

    def _keep(self, kept: list[str], what: str, sent: float, told: str) -> None:
        if len(kept) >= _KEPT:
            kept.append("...")
            return
        now = time.monotonic()
        meanwhile = [
            f"{fault.what} {fault.start - sent:+.1f} s"
            for fault in self.faults
            if fault.end >= sent - _RESTART_SECONDS and fault.start <= now
        ]
        kept.append(f"{what}, after {now - sent:.1f} s: {told[:_LINE]}; faults: {', '.join(meanwhile) or 'none'}")
