"""Starting, watching and stopping the servers that are compared."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil

_START_SECONDS: Final = 120.0
_STOP_SECONDS: Final = 15.0
_POLL_SECONDS: Final = 0.002
_SETTLE_SECONDS: Final = 60.0
_IDLE_SECONDS: Final = 2.0
_IDLE_SHARE: Final = 0.1


class Contestant(StrEnum):
    """This server, and mlx-lm's own with its defaults."""

    NANO = "nano"
    MLX_LM = "mlx_lm"

    def command(self) -> list[str]:
        module = ["mlx_server_nano.main"] if self is Contestant.NANO else ["mlx_lm", "server"]
        return [sys.executable, "-m", *module]

    def arguments(self, port: int, model: Path | None, cache: Path) -> list[str]:
        """This server takes a model's folder from the request; `mlx_lm.server` loads the one it is told at once. Random models
        soon repeat themselves, which speculation would find."""
        common = ["--host", "127.0.0.1", "--port", str(port), "--log-level", "WARNING"]
        if self is Contestant.NANO:
            return [*common, "--model-cache-dir", str(cache), "--no-speculation"]
        return [*common, "--model", str(model)] if model else common

    def batch(self, rows: int | None) -> list[str]:
        """Flags for how many requests decode together; none for its default."""
        flag = "--max-batch-size" if self is Contestant.NANO else "--decode-concurrency"
        return [] if rows is None else [flag, str(rows)]


class Memory(msgspec.Struct, frozen=True):
    """Bytes. resident: of all the server's processes together. device: on the GPU, None without one."""

    resident: int
    device: int | None


class Server:
    """A running server. `started` is when its process was asked for, on time.monotonic's clock."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, started: float, device_before: int | None) -> None:
        self.port = port
        self.started = started
        self._process = process
        self._device_before = device_before

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_listening(self) -> float:
        """Seconds from the start until `GET /health` is answered with 200. Raises RuntimeError if it ends or takes too
        long."""
        while time.monotonic() - self.started < _START_SECONDS:
            if self._process.poll() is not None:
                raise RuntimeError(f"the server ended with exit code {self._process.returncode}")
            if _healthy(self.port):
                return time.monotonic() - self.started
            time.sleep(_POLL_SECONDS)
        raise RuntimeError(f"the server did not listen within {_START_SECONDS:.0f} s")

    def wait_idle(self) -> None:
        """Until its processes hardly take CPU time: this server tries out how to decode when a model is first at rest."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < deadline:
            _, before = self.cpu_seconds()
            time.sleep(_IDLE_SECONDS)
            if self.cpu_seconds()[1] - before < _IDLE_SHARE * _IDLE_SECONDS:
                return

    def memory(self) -> Memory:
        device = _device_used()
        return Memory(
            sum(_resident(process) for process in self._family()),
            None if device is None or self._device_before is None else device - self._device_before,
        )

    def settled_memory(self) -> Memory:
        """Once the processes have stopped growing, a spare worker's imports included."""
        before, deadline = -1, time.monotonic() + _SETTLE_SECONDS
        while (now := self.memory()).resident != before and time.monotonic() < deadline:
            before = now.resident
            time.sleep(1.0)
        return now

    def cpu_seconds(self) -> tuple[float, float]:
        """Of the first process alone (this server's gateway), and of all."""
        first, *others = [_cpu_seconds(process) for process in self._family()] or [0.0]
        return first, first + sum(others)

    def stop(self) -> None:
        family = self._family()
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_SECONDS)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()

    def _family(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self._process.pid)
            return [parent, *parent.children(recursive=True)]
        return []


@contextlib.contextmanager
def running(contestant: Contestant, model: Path | None, *extra: str) -> Iterator[Server]:
    """Start a server; stop it and all its processes at the end. Its log is printed if the block fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryFile() as log:
        device_before = _device_used()
        command = [*contestant.command(), *contestant.arguments(port, model, Path(cache)), *extra]
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment(Path(cache)))
        server = Server(process, port, started, device_before)
        try:
            yield server
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read()[-4000:].decode(errors="replace"))
            raise
        finally:
            server.stop()


@contextlib.contextmanager
def serving(cache: Path, log: Path, *flags: str, **variables: str) -> Iterator[Server]:
    """This server with these flags and environment variables, which listens and writes to `log`; stopped at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = [*Contestant.NANO.command(), "--host", "127.0.0.1", "--port", str(port), *flags]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment(cache) | variables)
        server = Server(process, port, time.monotonic(), None)
        try:
            server.wait_listening()
            yield server
        finally:
            server.stop()


def environment(cache: Path) -> dict[str, str]:
    """Ours with the repository's source importable and no Hub to ask."""
    source = str(Path(__file__).resolve().parents[1] / "src")
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}


def help_seconds(contestant: Contestant, repeats: int = 3) -> float:
    """The least of a few: what `--help` takes once its files are in memory."""

    def once() -> float:
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as cache:
            subprocess.run(
                [*contestant.command(), "--help"],
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment(Path(cache)),
            )
        return time.monotonic() - started

    return min(once() for _ in range(repeats))


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _device_used() -> int | None:
    """Bytes in use on the NVIDIA GPU, whoever uses them; None without its tool."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    answer: Any = subprocess.run(query, capture_output=True, text=True, check=False)
    lines = answer.stdout.split()
    return int(lines[0]) << 20 if answer.returncode == 0 and lines and lines[0].isdigit() else None
