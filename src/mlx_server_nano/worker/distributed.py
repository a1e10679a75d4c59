"""Ranks that run one model together, over MLX's distributed engine.

Every rank runs the same engine over its own part of the model. Rank 0 alone speaks to the gateway, and writes a journal of
all that its engine learns from outside the model; the others replay it. A rank draws its own tokens, but those that count are
rank 0's: machines may round differently. They are exchanged as MLX's own collectives do it, on the device.

The journal goes over TCP rather than by collectives: these wait for steps on their way, and an idle engine would have to
turn for ever. A rank at the other end that is gone is noticed there too, and ends this one: the worker has crashed.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import os
import queue
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import mlx.core as mx
from msgspec import Struct, structs

from mlx_server_nano.errors import UnsupportedModelError
from mlx_server_nano.protocol import (
    Allow,
    Cancel,
    FrameReader,
    Generate,
    Load,
    LoadFailed,
    ToGateway,
    ToWorker,
    Unload,
    to_frame,
)
from mlx_server_nano.types import Embed, GenerationRequest
from mlx_server_nano.worker.channel import Channel, Inbox
from mlx_server_nano.worker.embedder import EmbeddingTask
from mlx_server_nano.worker.ranks import Ranks
from mlx_server_nano.worker.scheduler import Prepared

if TYPE_CHECKING:
    from mlx_server_nano.worker.engine import Incoming

_LOG = logging.getLogger(__name__)

_JOIN_SECONDS: Final = 100  # until all ranks have found each other; the gateway waits a little longer
_HELLO_SECONDS: Final = 10.0
_SECRET_BYTES: Final = 16
_RECEIVE_BYTES: Final = 1 << 16
# A machine that has lost its power or its cable says nothing: probed after 5 s, given up some seconds later.
_PROBES: Final = (
    ("TCP_KEEPIDLE", 5),
    ("TCP_KEEPALIVE", 5),
    ("TCP_KEEPINTVL", 2),
    ("TCP_KEEPCNT", 3),
    ("TCP_USER_TIMEOUT", 10_000),
)

T = TypeVar("T")


class Hello(Struct, frozen=True, array_like=True, tag="hello"):
    """A rank's first words to rank 0. secret: as rank 0 has told by MLX's collectives."""

    rank: int
    secret: bytes


class Taken(Struct, frozen=True, array_like=True, tag="taken"):
    """This request is prepared."""

    request_id: int


class Turn(Struct, frozen=True, array_like=True, tag="turn"):
    """What a turn of the engine takes in."""

    messages: tuple[Taken | Cancel | Allow | Unload, ...]


class Number(Struct, frozen=True, array_like=True, tag="number"):
    """What `agree` gives."""

    value: int


Entry = Load | Generate | Turn | Number


class Shared(Ranks):
    """What all ranks of a group have in common."""

    several = True

    def __init__(self, group: mx.distributed.Group) -> None:
        self._group = group

    def split(self, model: Any, config: dict[str, Any]) -> None:
        """Tensor-parallel where mlx-lm can, else as a pipeline."""
        ranks = self._group.size()
        if hasattr(model, "shard"):
            for name, heads in _heads(config).items():
                if heads % ranks:
                    raise UnsupportedModelError(
                        f"This model can't be split over {ranks} machines: its {heads} {name} don't divide by that."
                    )
            try:
                model.shard(self._group)
            except ValueError as error:
                raise UnsupportedModelError(f"This model can't be split over {ranks} machines: {error}") from error
        elif hasattr(getattr(model, "model", None), "pipeline"):
            if len(model.model.layers) < ranks:
                raise UnsupportedModelError(f"This model has too few layers for {ranks} machines.")
            model.model.pipeline(self._group)
        else:
            raise UnsupportedModelError(
                f"mlx-lm can't split models of the type {config['model_type']!r} over several machines."
            )

    def everywhere(self, holds: bool) -> bool:
        return bool(mx.distributed.all_sum(mx.array(int(holds)), group=self._group).item() == self._group.size())

    def fail(self, error: Exception) -> None:
        _LOG.error("Rank %d failed, and can't go on: the others may not have", self._group.rank(), exc_info=error)
        os._exit(1)


class Leader(Shared):
    """Rank 0. Writes the journal to all others."""

    def __init__(self, group: mx.distributed.Group, followers: Sequence[socket.socket], channel: Channel) -> None:
        super().__init__(group)
        self._followers = followers
        self._lock = threading.Lock()
        for number, follower in enumerate(followers, 1):
            arguments = (follower, number, channel)
            threading.Thread(target=_watch, args=arguments, name=f"rank {number}", daemon=True).start()

    def forward(self, message: ToWorker) -> None:
        """Prompts, so that all ranks prepare them at the same time."""
        if isinstance(message, Load):
            self._write(structs.replace(message, path=_portable(message.path)))
        elif isinstance(message, Generate) and isinstance(message.request, GenerationRequest | Embed):
            self._write(message)

    def take(self, inbox: Inbox[Incoming], *, wait: bool) -> list[Incoming]:
        incoming = inbox.take(wait=wait)
        taken: list[Taken | Cancel | Allow | Unload] = []
        for message in incoming:
            if isinstance(message, Prepared | EmbeddingTask):
                taken.append(Taken(message.request_id))
            elif isinstance(message, Cancel | Allow | Unload):
                taken.append(message)
        self._write(Turn(tuple(taken)))
        return incoming

    def agree(self, number: int) -> int:
        self._write(Number(number))
        return number

    def share(self, tokens: mx.array) -> mx.array:
        return mx.distributed.all_sum(tokens, group=self._group)

    def _write(self, entry: Entry) -> None:
        frame = to_frame(entry)
        try:
            with self._lock:
                for follower in self._followers:
                    follower.sendall(frame)
        except OSError as error:
            _lost(f"A rank does not listen any more: {error}")


class Follower(Shared):
    """Any other rank. Replays the journal; it takes the place of the channel to the gateway as well."""

    def __init__(self, group: mx.distributed.Group, leader: socket.socket) -> None:
        super().__init__(group)
        self._leader = leader
        self._journal: queue.SimpleQueue[Turn | Number] = queue.SimpleQueue()
        self._outcomes: deque[Incoming] = deque()

    def start(self, deliver: Callable[[ToWorker], None]) -> None:
        threading.Thread(target=self._read, args=(deliver,), name="reader", daemon=True).start()

    def send(self, message: ToGateway) -> None:
        """Rank 0 says the same, but for what goes wrong here alone."""
        if isinstance(message, LoadFailed):
            with contextlib.suppress(OSError):
                self._leader.sendall(to_frame(message))

    def take(self, inbox: Inbox[Incoming], *, wait: bool) -> list[Incoming]:
        return [self._prepared(m, inbox) if isinstance(m, Taken) else m for m in self._next(Turn).messages]

    def agree(self, number: int) -> int:
        return self._next(Number).value

    def share(self, tokens: mx.array) -> mx.array:
        # Made of the tokens, so that it comes after the exchanges of the pass that gave them, as on rank 0.
        return mx.distributed.all_sum(tokens * 0, group=self._group)

    def end(self) -> None:
        """Rank 0 ends the process."""
        threading.Event().wait()

    def _prepared(self, taken: Taken, inbox: Inbox[Incoming]) -> Incoming:
        """Requests are prepared in the order they come: what lies before this one was cancelled or answered."""
        number = 0
        while number < taken.request_id:
            if not self._outcomes:
                self._outcomes.extend(inbox.take(wait=True))
            outcome = self._outcomes.popleft()
            number = outcome[0] if isinstance(outcome, tuple) else getattr(outcome, "request_id", 0)
        if number != taken.request_id or not isinstance(outcome, Prepared | EmbeddingTask):
            _lost(f"Request {taken.request_id} could not be prepared here, as it was on rank 0")
        return outcome

    def _next(self, kind: type[T]) -> T:
        entry = self._journal.get()
        if not isinstance(entry, kind):
            _lost(f"This rank has lost its way: {entry} came where a {kind.__name__} was due")
        return entry

    def _read(self, deliver: Callable[[ToWorker], None]) -> None:
        reader: FrameReader[Entry] = FrameReader(Entry)
        try:
            while data := self._leader.recv(_RECEIVE_BYTES):
                for entry in reader.feed(data):
                    if isinstance(entry, Turn | Number):
                        self._journal.put(entry)
                    elif isinstance(entry, Load):
                        deliver(structs.replace(entry, path=str(Path(entry.path).expanduser())))
                    else:
                        deliver(entry)
        except OSError:
            pass
        except Exception:
            _LOG.exception("The journal can't be read")
            os._exit(1)
        os._exit(0)  # rank 0 is gone, and its end has been told


def join(leader: str, handover: str) -> tuple[Leader, Channel] | tuple[Follower, Follower]:
    """Find the other ranks, as MLX's environment variables tell. Gives the ranks, and what to the engine is the gateway.

    leader: an address of rank 0 that all can reach. handover: the Unix socket at which rank 0 gets its end of the socket to
    the gateway, as a file descriptor. Raises RuntimeError (from MLX) or OSError if there is no group. Whatever hangs here
    ends with the process, after a time."""
    signal.alarm(_JOIN_SECONDS)
    group = mx.distributed.init(strict=True)
    if group.rank() == 0:
        channel = _take_over(handover)
        with socket.create_server((leader, 0), family=_family(leader)) as server:
            secret = os.urandom(_SECRET_BYTES)
            _tell(group, server.getsockname()[1], secret)
            followers = _accept(server, secret, group.size() - 1)
        signal.alarm(0)
        return Leader(group, followers, channel), channel
    port, secret = _tell(group, 0, bytes(_SECRET_BYTES))
    connection = socket.create_connection((leader, port), timeout=_HELLO_SECONDS)
    connection.sendall(to_frame(Hello(group.rank(), secret)))
    signal.alarm(0)
    follower = Follower(group, _tuned(connection))
    return follower, follower


def _take_over(handover: str) -> Channel:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(handover)
        _, (fd, *_), _, _ = socket.recv_fds(connection, 1, 1)
    return Channel(fd)


def _tell(group: mx.distributed.Group, port: int, secret: bytes) -> tuple[int, bytes]:
    """Rank 0's port and secret, on all ranks; the others pass zeros."""
    told: Any = mx.distributed.all_sum(mx.array([port, *secret], dtype=mx.int32), group=group).tolist()
    return told[0], bytes(told[1:])


def _accept(server: socket.socket, secret: bytes, count: int) -> list[socket.socket]:
    """The connections of ranks 1, 2, ...; strangers are sent away."""
    found: dict[int, socket.socket] = {}
    while len(found) < count:
        connection, address = server.accept()
        connection.settimeout(_HELLO_SECONDS)
        hello = _hello(connection)
        if hello is not None and hmac.compare_digest(hello.secret, secret) and 0 < hello.rank <= count:
            found[hello.rank] = _tuned(connection)
        else:
            _LOG.warning("%s is no rank of this model", address[0])
            connection.close()
    return [found[rank] for rank in range(1, count + 1)]


def _hello(connection: socket.socket) -> Hello | None:
    reader: FrameReader[Hello] = FrameReader(Hello)
    try:
        while data := connection.recv(_SECRET_BYTES * 4):
            if hello := reader.feed(data):
                return hello[0]
    except Exception as error:
        _LOG.debug("No rank: %s", error)
    return None


def _tuned(connection: socket.socket) -> socket.socket:
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _PROBES:
        if (option := getattr(socket, name, None)) is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
    return connection


def _watch(follower: socket.socket, rank: int, channel: Channel) -> None:
    reader: FrameReader[LoadFailed] = FrameReader(LoadFailed)
    reason = "its end of the journal is closed"
    try:
        while data := follower.recv(_RECEIVE_BYTES):
            for failed in reader.feed(data):
                failure = failed.failure
                channel.send(LoadFailed(structs.replace(failure, message=f"Rank {rank}: {failure.message}")))
                os._exit(0)
    except Exception as error:
        reason = str(error)
    _lost(f"Rank {rank} is gone: {reason}")


def _lost(reason: str) -> NoReturn:
    _LOG.error("%s", reason)
    os._exit(1)


def _heads(config: dict[str, Any]) -> dict[str, int]:
    """Counts of heads in a model's configuration, in words."""
    text = config.get("text_config") or config
    return {
        name.removeprefix("num_").replace("_num_", " ").replace("_", " "): value
        for name, value in text.items()
        if "num_" in name and name.endswith("heads") and isinstance(value, int)
    }


def _portable(path: str) -> str:
    """A path below the user's home as one below everybody's."""
    home = Path.home()
    return str(Path("~") / Path(path).relative_to(home)) if Path(path).is_relative_to(home) else path


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
