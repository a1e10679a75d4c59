"""The disk tier of the prefix cache: caches that leave the memory, and come back.

The engine's thread alone touches MLX arrays that others use. It turns caches that leave into bytes, a portion a turn, each
computed by the device while the next step is; a thread writes them. Another thread has MLX read files into plain arrays and
checks them while the request that they serve waits; running streams don't notice either."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import numpy as np

from mlx_server_nano.errors import log_fault
from mlx_server_nano.protocol import LoadOptions
from mlx_server_nano.worker import kvfile, layout
from mlx_server_nano.worker.fingerprint import fingerprint
from mlx_server_nano.worker.kvfile import Bytes, Content
from mlx_server_nano.worker.loader import LoadedModel
from mlx_server_nano.worker.payoff import Payoff
from mlx_server_nano.worker.prefix import Tokens
from mlx_server_nano.worker.scheduler import Prepared
from mlx_server_nano.worker.shelf import Kept, Shelf

PAYOFF: Final = "payoff.json"  # in the model's folder
WORTHWHILE: Final = 256  # tokens; fewer are computed as soon as they are read
_UNWRITTEN: Final = 4 * kvfile.PART
_PENDING: Final = 1 << 30  # bytes of evicted caches that wait, unless it is a single entry
_PAUSE: Final = 600.0  # seconds without a try after the disk was full or failed

_LOG = logging.getLogger(__name__)

Caches = list[Any]


@dataclass(frozen=True, slots=True)
class Written:
    """The writer has room again."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a file held; None: nothing of use. seconds: that it took."""

    kept: Kept
    content: Content | None
    arrays: tuple[mx.array, ...] = ()
    seconds: float = 0.0


@dataclass(slots=True)
class _Leaving:
    """Caches on their way to the disk. portions: of their bytes, each computed when it is asked for."""

    content: Content
    portions: Iterator[mx.array]
    next: mx.array | None = None


class _End(Enum):
    COMPLETE = auto()
    GIVEN_UP = auto()


class DiskTier:
    """For the engine's thread. `deliver` gets `Written` and `Fetched`, from other threads."""

    def __init__(
        self, shelf: Shelf, new_caches: Callable[[], Caches], model: str, deliver: Callable[[Written | Fetched], None]
    ) -> None:
        self._shelf = shelf
        self._new_caches = new_caches
        self._model = model
        self._deliver = deliver
        self._leaving: deque[_Leaving] = deque()
        self._writer = _Writer(shelf, deliver)
        self._wanted: queue.SimpleQueue[Kept] = queue.SimpleQueue()
        self._waiting: dict[Path, list[Prepared]] = {}
        self.payoff = Payoff.load(shelf.own / PAYOFF)
        threading.Thread(target=self._read, name="disk reader", daemon=True).start()

    @property
    def ready(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self._leaving) and self._writer.has_room

    def fetch(self, prepared: Prepared, known: int, budget: int) -> bool:
        """Have a file read for a prompt of which the memory holds `known` tokens, if that promises to be faster than computing
        them and fits `budget` bytes. True: `Fetched` will follow."""
        found = self._shelf.find(np.array(prepared.ids[:-1], np.int32), beyond=known + WORTHWHILE)
        if found is None or found[0].nbytes > budget:
            return False
        kept, length = found
        if not self.payoff.pays(kept.nbytes, known, length):
            return False
        if kept.path not in self._waiting:
            self._waiting[kept.path] = []
            self._wanted.put(kept)
        self._waiting[kept.path].append(prepared)
        return True

    def cancel(self, request_id: int) -> None:
        for path, waiting in self._waiting.items():
            self._waiting[path] = [prepared for prepared in waiting if prepared.request_id != request_id]

    def take(self, fetched: Fetched) -> tuple[Caches | None, list[Prepared]]:
        """The caches, if there are any, and the requests that still wait for them."""
        waiting = self._waiting.pop(fetched.kept.path)
        if fetched.content is None:
            self._shelf.refresh()
            return None, waiting
        try:
            caches = layout.unpack(self._new_caches(), fetched.content.layout, fetched.arrays)
        except layout.LayoutError as error:
            self._shelf.discard(fetched.kept.path, str(error))
            return None, waiting
        self._shelf.used(fetched.kept.path)
        self.payoff.read(fetched.kept.nbytes, fetched.seconds)
        return caches, waiting

    def spill(self, tokens: Tokens, caches: Caches) -> None:
        """Take caches in that leave the memory, if there is time for it and reading promises to be faster than computing them."""
        if len(tokens) < WORTHWHILE or self._writer.paused or self._shelf.holds(tokens):
            return
        try:
            packed, arrays, tensors = layout.pack(caches, len(tokens))
        except layout.LayoutError as error:
            _LOG.debug("A prefix is not taken to disk: %s", error)
            return
        content = Content(self._model, tokens, packed, tensors)
        if not self.payoff.pays(content.nbytes, 0, len(tokens)):
            return
        waiting = sum(other.content.nbytes for other in self._leaving)
        if self._shelf.allows(content.nbytes) and (not waiting or waiting + content.nbytes <= _PENDING):
            self._leaving.append(_Leaving(content, _portions(arrays)))

    def step(self) -> None:
        """Hand on one portion and let the next be computed."""
        if self._writer.paused:
            self._drop()
        if not self.ready:
            return
        try:
            self._advance(self._leaving[0])
        except Exception as error:
            # Caches that can't be read are no reason to stop serving.
            log_fault(_LOG, "A prefix could not be taken to disk", error)
            self._drop()

    def _advance(self, leaving: _Leaving) -> None:
        if leaving.next is None:
            self._writer.begin(leaving.content)
        else:
            self._writer.add(np.array(leaving.next))
        leaving.next = next(leaving.portions, None)
        if leaving.next is not None:
            mx.async_eval(leaving.next)
        else:
            self._writer.end(_End.COMPLETE)
            self._leaving.popleft()

    def _drop(self) -> None:
        if self._leaving and self._leaving[0].next is not None:
            self._writer.end(_End.GIVEN_UP)
        self._leaving.clear()

    def close(self, held: Iterator[tuple[Tokens, Caches]], seconds: float) -> None:
        """Write what waits and then what is held, as far as it goes in this time; last, the speeds, as what is not written
        brings the next try nearer."""
        self._write(held, time.monotonic() + seconds)
        with contextlib.suppress(OSError):
            self.payoff.save(self._shelf.own / PAYOFF)

    def _write(self, held: Iterator[tuple[Tokens, Caches]], deadline: float) -> None:
        while True:
            while self._leaving:
                if not self._writer.wait(deadline):
                    return
                self.step()
            if (entry := next(held, None)) is None:
                self._writer.drain(deadline)
                return
            self.spill(*entry)

    def _read(self) -> None:
        while True:
            self._deliver(_fetch(self._wanted.get()))


def _fetch(kept: Kept) -> Fetched:
    began = time.perf_counter()
    try:
        content, arrays = kvfile.read(kept.path)
        if not np.array_equal(content.tokens, kept.tokens):
            raise kvfile.DamagedFileError("it has changed")
        return Fetched(kept, content, arrays, time.perf_counter() - began)
    except kvfile.DamagedFileError as error:
        _LOG.warning("A file of the prefix cache is removed: %s", error)
        kept.path.unlink(missing_ok=True)
    except Exception as error:
        # Somebody waits for an answer, whatever it is.
        _LOG.warning("A file of the prefix cache can't be read: %s", error)
    return Fetched(kept, None)


def disk_tier(
    loaded: LoadedModel, options: LoadOptions, deliver: Callable[[Written | Fetched], None]
) -> DiskTier | None:
    """The disk tier, if there is to be one and its folder can be made."""
    if options.prefix_cache_dir is None:
        return None
    model = fingerprint(loaded.folder, loaded.new_caches(), loaded.adapter)
    try:
        shelf = Shelf(Path(options.prefix_cache_dir), model, options.prefix_cache_disk, cut=loaded.cuttable)
    except OSError as error:
        _LOG.warning("Prefixes are not kept on disk: %s", error)
        return None
    return DiskTier(shelf, loaded.new_caches, model, deliver)


def _portions(arrays: list[mx.array]) -> Iterator[mx.array]:
    while arrays:
        # One at a time, so that no second copy of the whole is made.
        flat = mx.contiguous(arrays.pop(0)).reshape(-1).view(mx.uint8)
        for start in range(0, flat.size, kvfile.PART):
            yield flat[start : start + kvfile.PART]


class _Writer:
    """The thread that writes, and what waits for it. Methods are for the engine's thread."""

    def __init__(self, shelf: Shelf, deliver: Callable[[Written], None]) -> None:
        self._shelf = shelf
        self._deliver = deliver
        self._orders: queue.SimpleQueue[Content | Bytes | _End] = queue.SimpleQueue()
        self._unwritten = 0
        self._open = 0
        self._changed = threading.Condition()
        self._paused_until = 0.0
        self._file: kvfile.Writer | None = None
        self._content: Content | None = None
        threading.Thread(target=self._run, name="disk writer", daemon=True).start()

    @property
    def paused(self) -> bool:
        return time.monotonic() < self._paused_until

    @property
    def has_room(self) -> bool:
        return self._unwritten < _UNWRITTEN

    def begin(self, content: Content) -> None:
        with self._changed:
            self._open += 1
        self._orders.put(content)

    def add(self, piece: Bytes) -> None:
        with self._changed:
            self._unwritten += piece.nbytes
        self._orders.put(piece)

    def end(self, how: _End) -> None:
        self._orders.put(how)

    def wait(self, deadline: float) -> bool:
        """Until there is room; False if that takes too long."""
        with self._changed:
            in_time = self._changed.wait_for(lambda: self.has_room, deadline - time.monotonic())
        return in_time and time.monotonic() < deadline

    def drain(self, deadline: float) -> None:
        """Until every file that was begun is complete or given up."""
        with self._changed:
            self._changed.wait_for(lambda: not self._open, deadline - time.monotonic())

    def _run(self) -> None:
        while True:
            order = self._orders.get()
            try:
                self._obey(order)
            except Exception as error:  # a full disk first of all
                _LOG.warning("Prefixes are not written to disk for %g minutes: %s", _PAUSE / 60, error)
                self._paused_until = time.monotonic() + _PAUSE
                self._give_up()
            with self._changed:
                if isinstance(order, np.ndarray):
                    self._unwritten -= order.nbytes
                elif isinstance(order, _End):
                    self._open -= 1
                self._changed.notify_all()
            if not isinstance(order, Content):
                self._deliver(Written())

    def _obey(self, order: Content | Bytes | _End) -> None:
        if isinstance(order, Content):
            self._give_up()
            if not self.paused:
                self._shelf.make_room(order.nbytes)
                self._file, self._content = kvfile.Writer(self._shelf.own, order), order
        elif order is _End.GIVEN_UP:
            self._give_up()
        elif self._file is None or self._content is None:
            pass  # it has failed
        elif isinstance(order, _End):
            self._file.commit()
            self._file = None
            self._shelf.count(self._content.nbytes)
        else:
            self._file.add(order.data)

    def _give_up(self) -> None:
        if self._file is not None:
            self._file.abort()
            self._file = None
