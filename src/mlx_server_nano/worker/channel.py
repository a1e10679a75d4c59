"""The worker's end of the socket to the gateway."""

from __future__ import annotations

import logging
import os
import queue
import socket
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from mlx_server_nano.protocol import FrameReader, ToGateway, ToWorker, to_frame

T = TypeVar("T")

_LOG = logging.getLogger(__name__)

_RECEIVE_BYTES = 1 << 16
_SEND_BUFFER_BYTES = 1 << 20


class Channel:
    """`send` from one thread at a time; `start` gives every received message to `deliver` on a reader thread.

    The gateway's end of file ends this process at once, whatever it is doing: nobody is left to work for, and the
    memory must not stay taken. So does what can't be read: a worker that hears nothing would outlive the gateway."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self._frames: FrameReader[ToWorker] = FrameReader(ToWorker)

    def send(self, message: ToGateway) -> None:
        try:
            self._socket.sendall(to_frame(message))
        except OSError:
            os._exit(0)

    def start(self, deliver: Callable[[ToWorker], None]) -> None:
        threading.Thread(target=self._read, args=(deliver,), name="reader", daemon=True).start()

    def _read(self, deliver: Callable[[ToWorker], None]) -> None:
        try:
            while data := self._socket.recv(_RECEIVE_BYTES):
                for message in self._frames.feed(data):
                    deliver(message)
        except OSError:
            pass
        except Exception:
            _LOG.exception("The gateway's messages can't be read")
            os._exit(1)
        os._exit(0)


class Inbox(Generic[T]):
    """A queue that is emptied at once."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[T] = queue.SimpleQueue()
        self.put = self._queue.put

    def take(self, *, wait: bool) -> list[T]:
        """All that is there; with `wait`, at least one."""
        items = [self._queue.get()] if wait else []
        while True:
            try:
                items.append(self._queue.get_nowait())
            except queue.Empty:
                return items
