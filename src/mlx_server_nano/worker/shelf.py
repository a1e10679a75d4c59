"""The folder of the disk tier, and one model's files in it.

    FOLDER/written.json            bytes written today, by all
    FOLDER/<model>/<name>.kv       see `kvfile`
    FOLDER/<model>/<name>.part     one that is being written
    FOLDER/<model>/payoff.json     see `payoff`

A file's modification time is its last use. Several workers and servers may share a folder: files appear whole and
disappear at any time, nothing else is relied upon. Only files that bear these names are ever touched."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from mlx_server_nano.worker import kvfile
from mlx_server_nano.worker.prefix import Tokens, common

DAILY: Final = 5  # times the size limit: what is written a day at most
_FINGERPRINT: Final = re.compile("[0-9a-f]{64}")
_ABANDONED: Final = 3600.0  # seconds after which an unfinished file is nobody's
_DAY: Final = 86400
_LEAST_SHARE: Final = 8  # a file is read if at least this fraction of it serves

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kept:
    """A file that holds the caches of these tokens. nbytes: the caches'."""

    path: Path
    tokens: Tokens
    nbytes: int


class Shelf:
    """One model's files. For one thread, but `make_room` and `count`, which look at the folder alone."""

    def __init__(
        self, folder: Path, model: str, limit: int, *, cut: bool, clock: Callable[[], float] = time.time
    ) -> None:
        """model: its fingerprint. limit: bytes in `folder`, all models together. cut: caches serve any prefix of their tokens.
        Raises OSError if the folder can't be made."""
        self._folder = folder
        self._model = model
        self._limit = limit
        self._cut = cut
        self._clock = clock
        self._kept: dict[Path, Kept] = {}
        self._seen = -1
        self.own = folder / model
        self.own.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.refresh()

    def find(self, tokens: Tokens, *, beyond: int) -> tuple[Kept, int] | None:
        """The file that shares most with `tokens`, and how many tokens of it serve; None if those are `beyond` at most."""
        self.refresh()
        best: tuple[Kept, int] | None = None
        for kept in self._kept.values():
            if min(len(kept.tokens), len(tokens)) <= beyond:
                continue
            length = common(kept.tokens, tokens)
            whole = length == len(kept.tokens)
            if length > beyond and (whole or (self._cut and length * _LEAST_SHARE >= len(kept.tokens))):
                best, beyond = (kept, length), length
        return best

    def holds(self, tokens: Tokens) -> bool:
        """Whether a file serves these tokens as well as one of their own would."""
        self.refresh()
        for kept in self._kept.values():
            longer = len(kept.tokens) >= len(tokens) if self._cut else len(kept.tokens) == len(tokens)
            if longer and common(kept.tokens, tokens) == len(tokens):
                return True
        return False

    def refresh(self) -> None:
        """Take in what was added or removed, by whomever. Files that are not what they should be are removed, and those that
        another makes useless."""
        with contextlib.suppress(OSError):
            if (seen := self.own.stat().st_mtime_ns) == self._seen:
                return
            self._seen = seen
        paths = {path for path in _entries(self.own) if path.suffix == kvfile.SUFFIX}
        self._kept = {path: kept for path, kept in self._kept.items() if path in paths}
        before = set(self._kept)
        for path in paths - before:
            try:
                content = kvfile.peek(path)
                if content.model != self._model:
                    raise kvfile.DamagedFileError("it is of another model")
            except OSError:
                continue
            except kvfile.DamagedFileError as error:
                self.discard(path, str(error))
                continue
            self._kept[path] = Kept(path, content.tokens, content.nbytes)
        if self._cut and paths - before:
            for kept in _covered(self._kept.values()):
                self.discard(kept.path)

    def discard(self, path: Path, reason: str | None = None) -> None:
        if reason is not None:
            _LOG.warning("A file of the prefix cache is removed: %s", reason)
        self._kept.pop(path, None)
        with contextlib.suppress(OSError):
            path.unlink()

    def used(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            now = self._clock()
            os.utime(path, (now, now))

    def allows(self, nbytes: int) -> bool:
        """Whether so much more may be written today."""
        return nbytes <= self._limit and self._written() + nbytes <= DAILY * self._limit

    def count(self, nbytes: int) -> None:
        """So much was written. Two processes that count at once lose one of the counts; the bound is no finer than that.
        Raises OSError."""
        total = {"day": self._today, "bytes": self._written() + nbytes}
        kvfile.replace(self._ledger, json.dumps(total).encode())

    def make_room(self, nbytes: int) -> None:
        """Remove the files that were used longest ago, of any model, until so much more fits the limit."""
        files = []
        models = [path for path in _entries(self._folder) if _FINGERPRINT.fullmatch(path.name)]
        for path in [path for model in models for path in _entries(model)]:
            with contextlib.suppress(OSError):
                stat = path.stat()
                if path.suffix == kvfile.SUFFIX:
                    files.append((stat.st_mtime, stat.st_size, path))
                elif path.suffix == kvfile.UNFINISHED and stat.st_mtime < self._clock() - _ABANDONED:
                    path.unlink()
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total + nbytes <= self._limit:
                return
            with contextlib.suppress(OSError):
                path.unlink()
            total -= size

    @property
    def _ledger(self) -> Path:
        return self._folder / "written.json"

    @property
    def _today(self) -> int:
        return int(self._clock()) // _DAY

    def _written(self) -> int:
        try:
            total = json.loads(self._ledger.read_text())
            return int(total["bytes"]) if total["day"] == self._today else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0


def _covered(files: Iterable[Kept]) -> list[Kept]:
    """Those whose tokens another begins with; all but one of those that are the same."""
    ordered = sorted((kept.tokens.astype(">u4").tobytes(), str(kept.path), kept) for kept in files)
    # In this order, what begins with a run follows right behind it.
    return [kept for (run, _, kept), (following, _, _) in pairwise(ordered) if following.startswith(run)]


def _entries(folder: Path) -> Iterator[Path]:
    """What lies in a folder; nothing if it is none."""
    try:
        with os.scandir(folder) as entries:
            yield from [Path(entry.path) for entry in entries]
    except OSError:
        return
