"""A long run under mixed load with faults injected: does anything grow, hang, or answer wrongly?

    python -m benchmarks.soak --minutes 20

Starts a server of its own with the built-in model and two small random ones, of which the memory limit holds only two at
a time. It ends by itself, says what it saw, and exits with 1 if something was not as it should be."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import psutil

from benchmarks import random_model, servers
from benchmarks.soak import report
from benchmarks.soak.clients import DEMO, Clients
from benchmarks.soak.faults import Faults
from benchmarks.soak.journal import Journal
from benchmarks.soak.load import Load
from benchmarks.soak.rude import RudeClients
from benchmarks.soak.watch import Pause, Quiet, Watch

_FLAGS: Final = (
    *("--idle-timeout", "8"),
    *("--max-memory", "420M"),
    *("--prefix-cache-memory", "16M"),
    *("--prefix-cache-disk", "64M"),
    *("--max-batch-size", "8"),
    *("--keepalive-interval", "1"),
)
# As glibc has them at first. It raises them as a program runs, and then keeps what is freed for itself.
_ALLOCATOR: Final = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
_SAMPLE_SECONDS: Final = 2.0
_REQUEST_SECONDS: Final = 180.0
# Of the run's time: until when it warms up, when the load rests so that all models unload, and when it pauses so that the
# workers can be compared with themselves; from the last rest on nothing is killed.
_WARM: Final = 0.12
_RESTS: Final = (_WARM, 0.36, 0.6)
_CALM: Final = _RESTS[-1]
_PAUSES: Final = tuple(_CALM + (1 - _CALM) * part / 16 for part in range(1, 17))


@dataclass(frozen=True, slots=True)
class Times:
    """On time.monotonic's clock."""

    start: float
    seconds: float

    def at(self, fraction: float) -> float:
        return self.start + fraction * self.seconds


@contextlib.contextmanager
def small_models(folder: Path) -> Iterator[list[str]]:
    models = [folder / "first", folder / "second"]
    for model in models:
        random_model.make(model, random_model.SHAPES["micro"], dtype="float32")
    yield [str(model) for model in models]


async def soak(server: servers.Server, models: list[str], minutes: float, seed: int) -> report.Run:
    journal, watch = Journal(), Watch(psutil.Process(server.pid))
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=8)
    address = f"http://127.0.0.1:{server.port}"
    async with httpx.AsyncClient(base_url=address, timeout=_REQUEST_SECONDS, limits=limits) as http:
        clients = Clients(http, models, random.Random(seed))
        rude = RudeClients(server.port, [DEMO, *models], random.Random(seed + 1))
        faults = Faults(http, watch, journal, rude, random.Random(seed + 2))
        load = Load(clients, rude, journal, random.Random(seed + 3))
        await clients.learn()
        times = Times(time.monotonic(), minutes * 60)
        sampling = asyncio.create_task(_sample(watch))
        quiet: list[Quiet] = []
        pauses: list[Pause] = []
        for fraction in _RESTS:
            injecting = faults.inject(times.at(fraction), times.at(_CALM))
            await asyncio.gather(load.run(times.at(fraction)), injecting)
            quiet.append(await watch.rest(http))
            _say(times, quiet[-1])
        clients.only([DEMO])  # so that its worker neither makes room for another nor idles
        rude.only([DEMO])
        for fraction in _PAUSES:
            if time.monotonic() < times.at(fraction):
                await asyncio.gather(load.run(times.at(fraction)), faults.inject(times.at(fraction), times.at(_CALM)))
                pauses.append(await watch.pause(http))
                _say(times, pauses[-1])
        quiet.append(await watch.rest(http))
        _say(times, quiet[-1])
        sampling.cancel()
    return report.Run(journal, watch, quiet, pauses, minutes, times.at(_WARM))


def _say(times: Times, seen: Quiet | Pause) -> None:
    print(f"{time.monotonic() - times.start:6.0f} s: {seen}", file=sys.stderr, flush=True)


async def _sample(watch: Watch) -> None:
    while True:
        watch.look()
        await asyncio.sleep(_SAMPLE_SECONDS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0, help="draws the load and the faults")
    parser.add_argument("--log", type=Path, help="where the server's log goes; else it is thrown away")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, small_models(Path(name)) as models:
        folder = Path(name)
        shelf, log = folder / "prefixes", given.log or folder / "log"
        flags = (*_FLAGS, "--prefix-cache-dir", str(shelf))
        with servers.serving(folder / "cache", log, *flags, **_ALLOCATOR) as server:
            run = asyncio.run(soak(server, models, given.minutes, given.seed))
        orphans = len(run.watch.left_over())
        findings = report.judge(run, orphans, log.read_text(errors="replace"), shelf)
    print(report.text(run, findings))
    sys.exit(0 if all(finding.good for finding in findings) else 1)


if __name__ == "__main__":
    main()
