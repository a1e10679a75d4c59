"""The server that runs, or one of the command's own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, Final

import click

from mlx_server_nano.cli.client import Client, RefusedError, UnreachableError, connect
from mlx_server_nano.config import Connection, connection

_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 10.0
_FLAGS: Final = (
    "--host",
    "127.0.0.1",
    "--port",
    "0",
    "--log-level",
    "INFO",
    "--log-format",
    "text",
    "--shutdown-timeout",
    "1",
)


@contextmanager
def any_server(flags: Mapping[str, Any]) -> Iterator[Client]:
    """The server that answers; where none does and no URL names one, a new one on a free port, which ends with the block.
    Raises click.ClickException."""
    client = connect(flags)
    there = connection(flags)
    if there.named or _answers(client):
        yield client
        return
    with _own_server(there.key) as client:
        yield client


def _answers(client: Client) -> bool:
    try:
        client.get("/health")
    except UnreachableError:
        return False
    except RefusedError:
        pass  # its next answer says why
    return True


@contextmanager
def _own_server(key: str | None) -> Iterator[Client]:
    click.echo(f"No server runs at {connection({}).url}: starting one.", err=True)
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlx_server_nano", "serve", *_FLAGS], stderr=log, start_new_session=True
        )
        before = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGHUP)}
        try:
            yield Client(Connection(_url(process, log), key))
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for number, handler in before.items():
                signal.signal(number, handler)


def _leave(number: int, frame: object) -> None:
    """A closed terminal must not leave the server behind."""
    sys.exit(128 + number)


def _url(process: subprocess.Popen[bytes], log: IO[bytes]) -> str:
    """Waits until it is ready. Raises click.ClickException with its last words.

    log: what the process writes to, at the position of the file that is ours too, so it must not be moved.
    """
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        ended = process.poll() is not None
        text = os.pread(log.fileno(), os.fstat(log.fileno()).st_size, 0).decode(errors="replace")
        if found := re.search(r"Ready at (http://\S+)\n", text):
            return found[1]
        if ended:
            raise click.ClickException(f"the server does not start: {text.strip().rpartition(chr(10))[2]}")
        time.sleep(0.05)
    raise click.ClickException("the server does not become ready")
