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


class RefusedError(Exception):
    """An error that the server answered with. `code` is its own; `status` is 200 for one in a stream."""

    def __init__(self, status: int, code: str | None, message: str) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code


class WrongError(Exception):
    """An answer that is not what it should be."""


@dataclass(slots=True)
class Journal:
    """kills: when a worker was killed. The lists hold the first few of what must not happen."""

    kills: list[float] = field(default_factory=list)
    phases: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    excused: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)

    def killed(self, phase: str) -> None:
        self.kills.append(time.monotonic())
        self.phases[phase] += 1

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
            self._keep(self.unexplained, f"{what}: {error}")

    def failed(self, what: str, error: Exception) -> None:
        """A client's end that no server's answer explains."""
        kept = self.wrong if isinstance(error, WrongError) else self.unexplained
        self._keep(kept, f"{what}: {type(error).__name__}: {error}")

    def hung(self, what: str) -> None:
        self._keep(self.stuck, what)

    def _keep(self, kept: list[str], line: str) -> None:
        kept.append(line[:400] if len(kept) < _KEPT else "...")
