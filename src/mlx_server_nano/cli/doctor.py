"""`mlx-server-nano doctor`: whether the installation can work, and what to do where it can't."""

from __future__ import annotations

import ctypes.util
import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Final

import click

from mlx_server_nano import __version__
from mlx_server_nano.cli.catalogs import OPTIONS
from mlx_server_nano.cli.client import Client, RefusedError, UnreachableError, connect
from mlx_server_nano.cli.options import server_options, some_options
from mlx_server_nano.cli.table import size
from mlx_server_nano.config import SettingError, export_hub, resolve, worker_environment

_DISTRIBUTION: Final = "mlx-server-nano"
_LITTLE_DISK: Final = 10_000_000_000  # bytes; a model of 8 billion parameters in 8 bits takes as much
_START_SECONDS: Final = 120.0


class Grade(Enum):
    """With its colour."""

    GOOD = "green"
    WARNING = "yellow"
    BROKEN = "red"


@dataclass(frozen=True, slots=True)
class Finding:
    """what: one line. advice: what to do; empty where all is well."""

    grade: Grade
    what: str
    advice: str = ""


def good(what: str) -> Finding:
    return Finding(Grade.GOOD, what)


def warning(what: str, advice: str) -> Finding:
    return Finding(Grade.WARNING, what, advice)


def broken(what: str, advice: str) -> Finding:
    return Finding(Grade.BROKEN, what, advice)


def check_machine(system: str, machine: str, python: tuple[int, int]) -> Iterator[Finding]:
    """system: as sys.platform has it."""
    told = f"Python {python[0]}.{python[1]} on {system} {machine}"
    if not (3, 11) <= python < (3, 14):
        yield broken(told, "install the package with Python 3.11, 3.12 or 3.13")
    elif system == "darwin" and machine != "arm64":
        yield broken(told, "MLX needs Apple silicon; on such a Mac, use a Python for arm64, not one under Rosetta")
    elif system not in ("darwin", "linux"):
        yield broken(told, "MLX runs on macOS and Linux")
    else:
        yield good(told)


def check_packages(wanted: list[str], installed: Mapping[str, str | None]) -> Iterator[Finding]:
    """wanted: requirements as in the package's metadata. installed: versions; None: it is not there."""
    from packaging.requirements import Requirement

    wrong = False
    for text in wanted:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        there = installed.get(requirement.name)
        if there is None or not requirement.specifier.contains(there, prereleases=True):
            wrong = True
            told = "is not installed" if there is None else f"is version {there}"
            name = f"{requirement.name}{requirement.specifier}"
            yield broken(f"{requirement.name} {told}", f"pip install '{name}'")
    if not wrong:
        yield good(f"MLX Server Nano {__version__}, mlx {installed.get('mlx')}, mlx-lm {installed.get('mlx-lm')}")


def _packages() -> Iterator[Finding]:
    try:
        wanted = requires(_DISTRIBUTION) or []
    except PackageNotFoundError:
        yield warning("The package runs from its source without being installed", "pip install -e .")
        return
    from packaging.requirements import Requirement

    yield from check_packages(wanted, {name: _version(name) for name in (Requirement(text).name for text in wanted)})


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _worker() -> Iterator[Finding]:
    """Starts one: it imports all that models need, and tells what they run on."""
    import asyncio

    from mlx_server_nano.errors import WorkerDiedError
    from mlx_server_nano.models.preflight import installation_problem
    from mlx_server_nano.models.worker import COMMAND, Worker

    if (problem := installation_problem()) is not None:
        what, _, advice = problem.partition(": ")
        yield broken(what, advice)
        return

    async def start() -> Any:
        worker = Worker()
        device = await worker.start((*COMMAND, "--log-level", "ERROR"), worker_environment(), _START_SECONDS)
        await worker.stop()
        return device

    try:
        device = asyncio.run(start())
    except (OSError, WorkerDiedError) as error:
        advice = "its last words stand above; installing the package again, in a fresh environment, may help"
        yield broken(f"No worker process can be started: {error or 'it does not become ready'}", advice)
        return
    yield good(f"A worker process starts; models run on {device.name} ({device.backend})")
    if device.backend == "cpu" and sys.platform == "linux":
        if ctypes.util.find_library("openblas") or ctypes.util.find_library("openblasp"):
            yield good("OpenBLAS is there")
        else:
            yield warning(
                "There is no OpenBLAS, and MLX's own BLAS is slow",
                "apt-get install libopenblas0, or dnf install openblas-threads",
            )


def check_cache(folder: Path) -> Iterator[Finding]:
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not os.access(there, os.W_OK | os.X_OK):
        yield broken(f"The Hub's cache {folder} can't be written", "make it yours, or choose another with HF_HOME")
        return
    free = shutil.disk_usage(there).free
    told = f"The Hub's cache is {folder}; {size(free)} are free there"
    if free < _LITTLE_DISK:
        yield warning(told, "free some space (mlx-server-nano rm), or move it with HF_HOME")
    else:
        yield good(told)


def _hub() -> Iterator[Finding]:
    from huggingface_hub import constants, get_token

    yield from check_cache(Path(constants.HF_HUB_CACHE))
    if get_token():
        yield good("There is a token for the Hub")
    else:
        yield good("There is no token for the Hub; gated models need HF_TOKEN")
    if constants.HF_HUB_OFFLINE:
        yield warning("HF_HUB_OFFLINE is set: nothing is downloaded", "unset it to download models")


def _demo() -> Iterator[Finding]:
    from mlx_server_nano.models.catalog import BUILT_IN, DEMO

    if (BUILT_IN[DEMO] / "config.json").is_file():
        yield good("The model demo is there")
    else:
        yield warning("The model demo is missing", "install the package again")


def check_server(client: Client, host: str, port: int) -> Iterator[Finding]:
    """host, port: where a server of this configuration would listen."""
    try:
        status = client.get("/admin/status")
    except RefusedError as error:
        yield warning(f"{client.url}: {error.message}", "check --url, the key, and what listens there")
        return
    except UnreachableError:
        try:
            with socket.create_server((host, port)):
                pass
        except OSError as error:
            yield broken(f"A server can't listen on {host}:{port}: {error.strerror}", "choose another --port or --host")
        else:
            yield good(f"No server runs at {client.url}; port {port} is free")
        return
    if status["reason"] is not None:
        yield broken(f"The server at {client.url} is {status['status']}: {status['reason']}", "see its log")
        return
    memory = status["memory"]
    told = f"{size(memory['used_bytes'])} of {size(memory['limit_bytes'])} in use"
    yield good(f"A server runs at {client.url}: {len(status['models'])} model(s), {told}")


def _doctor(**flags: Any) -> int:
    """Check the installation, and say what to do where something is wrong. Exit code 1: it can't work."""
    client = connect(flags)
    try:
        settings = resolve({name: flags.get(name) for name in OPTIONS})
    except SettingError as error:
        raise click.UsageError(str(error)) from None
    export_hub(settings)

    def checks() -> Iterator[Finding]:
        yield from check_machine(sys.platform, platform.machine(), (sys.version_info.major, sys.version_info.minor))
        yield from _packages()
        yield from _worker()
        yield from _memory(settings.max_memory)
        yield from _demo()
        yield from _hub()
        yield from check_server(client, settings.host, settings.port)

    worst = 0
    for finding in checks():
        sign = {Grade.GOOD: "ok", Grade.WARNING: "warning", Grade.BROKEN: "broken"}[finding.grade]
        click.echo(f"{click.style(f'{sign:8}', fg=finding.grade.value)} {finding.what}")
        if finding.advice:
            click.echo(f"         {finding.advice}")
        worst = max(worst, finding.grade is Grade.BROKEN)
    return worst


def _memory(configured: int | None) -> Iterator[Finding]:
    from mlx_server_nano.models.memory import memory_limit

    yield good(
        f"Models may take {size(memory_limit(configured, None))} of memory, or what the device recommends if that differs"
    )


doctor = click.Command(
    "doctor", callback=_doctor, params=[*some_options(*OPTIONS), *server_options()], help=_doctor.__doc__
)
