"""The HTTP server: uvicorn, with our way to start and stop."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import resource
import signal
import socket
import time
from collections.abc import Iterator
from types import FrameType
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from mlx_server_nano.api.gate import Gate
from mlx_server_nano.config import Settings

logger = logging.getLogger(__name__)

_BACKLOG: Final = 2048  # many clients may connect at once
_KEEP_ALIVE: Final = (
    75  # seconds; longer than clients keep idle connections, else a reused one may be closed under them
)
_DESCRIPTORS: Final = 8192  # a connection takes one, and macOS gives a process 256; it refuses more than 10,240
_GRACE: Final = 2  # seconds for interrupted requests to write their last bytes


def listen(host: str, port: int) -> socket.socket:
    """Raises OSError if the address does not exist here or is in use."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    dual = host == "::" and socket.has_dualstack_ipv6()
    return socket.create_server((address[0], address[1]), family=family, backlog=_BACKLOG, dualstack_ipv6=dual)


def is_loopback(listener: socket.socket) -> bool:
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def url(listener: socket.socket) -> str:
    """Where a client on this machine finds the listener."""
    host, port = listener.getsockname()[:2]
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        host = "127.0.0.1" if address.version == 4 else "::1"
    return f"http://[{host}]:{port}" if address.version == 6 else f"http://{host}:{port}"


def allow_descriptors() -> None:
    """Raise this process's limit on open files, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = _DESCRIPTORS if hard == unlimited else min(_DESCRIPTORS, hard)
    if soft != unlimited and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Server(uvicorn.Server):
    """SIGTERM and SIGINT drain: no new requests, but the listener stays open so that /health can say so; the end comes when
    no request runs. After `timeout` seconds those that do are interrupted. A second signal exits at once.

    greeting: logged once the server is ready.
    """

    def __init__(self, app: ASGIApp, settings: Settings, gate: Gate, greeting: str = "") -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http="httptools",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=_BACKLOG,
                timeout_keep_alive=_KEEP_ALIVE,
                timeout_graceful_shutdown=_GRACE,
            )
        )
        self._gate = gate
        self._greeting = greeting
        self._timeout = settings.shutdown_timeout
        self._deadline = float("inf")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        allow_descriptors()
        await super().startup(sockets)
        for listener in sockets or ():
            logger.info("Ready at %s", url(listener))
        if self._greeting:
            logger.info("%s", self._greeting)

    async def on_tick(self, counter: int) -> bool:
        if self._gate.draining:
            now = time.monotonic()
            if now >= self._deadline:
                self._gate.interrupt()
            self.should_exit = self._gate.idle or now >= self._deadline + _GRACE
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._gate.draining:
            os._exit(128 + sig)  # threads (a download's) must not hold it up; workers end with our sockets
        self._gate.drain()
        self._deadline = time.monotonic() + self._timeout

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but a signal that we have obeyed is not raised again: the exit status is 0."""
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
