"""What a run says: its findings, each good or bad, and the figures behind them."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.soak.growth import Growth, fit
from benchmarks.soak.journal import Journal
from benchmarks.soak.watch import Pause, Quiet, Sample, Watch

# A rise in resident memory that is no growth: a share of the mean, or so many bytes.
_SHARE: Final = 0.05
_GATEWAY_BYTES: Final = 6 << 20
_WORKER_BYTES: Final = 12 << 20
# The gateway's threads beside the loop: the event loop's pool for work on files has that many, made when they are needed.
_THREADS: Final = min(32, (os.cpu_count() or 1) + 4) + 1
_SHELF_BYTES: Final = 64 << 20
_FAULTS: Final = re.compile(
    r"Traceback|A request failed|internal error|never awaited|was never retrieved", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Run:
    """warm: when the samples begin to count, on time.monotonic's clock."""

    journal: Journal
    watch: Watch
    quiet: list[Quiet]
    pauses: list[Pause]
    minutes: float
    warm: float


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    good: bool
    figures: str


def judge(run: Run, orphans: int, log: str, shelf: Path) -> list[Finding]:
    """`orphans`: processes that outlived the server. `shelf`: the folder of the disk tier."""
    journal, (first, *later) = run.journal, run.quiet
    gateway = [sample for sample in run.watch.samples[run.watch.gateway.pid] if sample.at >= run.warm]
    levels = {(quiet.descriptors, quiet.threads) for quiet in later}
    kept = sum(file.stat().st_size for file in shelf.rglob("*") if file.is_file())
    return [
        Finding("answers that were wrong", not journal.wrong, _some(journal.wrong)),
        Finding("errors that no fault explains", not journal.unexplained, _some(journal.unexplained)),
        Finding("requests that hung", not journal.stuck, _some(journal.stuck)),
        _memory("gateway's resident memory", gateway, _GATEWAY_BYTES),
        *_workers(run),
        Finding(
            "gateway's descriptors and threads at rest",
            all(d <= first.descriptors + 1 and t <= _THREADS for d, t in levels),
            ", ".join(f"{quiet.descriptors} and {quiet.threads}" for quiet in run.quiet),
        ),
        Finding(
            "processes at rest, 2 wanted",
            all(quiet.processes == 2 and not quiet.left for quiet in run.quiet),
            ", ".join(f"{quiet.processes} {' '.join(quiet.left)}".strip() for quiet in run.quiet),
        ),
        Finding("processes left after the end", orphans == 0, str(orphans)),
        Finding("disk tier, 64 MiB allowed", kept <= _SHELF_BYTES, _mebibytes(kept)),
        Finding("faults in the log", not _FAULTS.search(log), _some([match[0] for match in _FAULTS.finditer(log)])),
    ]


def _workers(run: Run) -> list[Finding]:
    """Of those that lived longest without a kill: what is resident beside their caches, which come and go with the prompts. An
    allocator gives free pages back now and then only, so the least of the pauses' first half is compared with the second's."""
    if not run.pauses:
        return [Finding("workers' resident memory", False, "no pauses")]
    (lasting, _), *_ = Counter(pause.workers for pause in run.pauses).most_common()
    pauses = [pause for pause in run.pauses if pause.workers == lasting]
    settled = pauses[len(pauses) // 4 :]  # compiled steps and pools come first
    beside = [pause.resident - pause.caches for pause in settled]
    half = len(beside) // 2
    if half == 0:
        return [Finding("workers' resident memory", False, f"{len(pauses)} pauses with the same workers are too few")]
    least, later = min(beside[:half]), min(beside[half:])
    caches = " to ".join(_mebibytes(bound(pause.caches for pause in settled)) for bound in (min, max))
    descriptors = {
        pid: fit([(sample.at, sample.descriptors) for sample in run.watch.samples[pid] if sample.at >= settled[0].at])
        for pid in sorted(lasting)
    }
    return [
        Finding(
            f"{len(lasting)} workers' resident memory without their caches, at {len(settled)} pauses",
            later - least <= max(_SHARE * least, _WORKER_BYTES),
            f"{_mebibytes(least)} at least, in the second half {_mebibytes(later)}; {_mebibytes(max(beside))} at most;"
            f" caches {caches}",
        ),
        Finding(
            "workers' descriptors",
            all(growth is not None and growth.rise < 2 for growth in descriptors.values()),
            ", ".join(f"{growth.mean:.1f} {growth.rise:+.1f}" for growth in descriptors.values() if growth is not None),
        ),
    ]


def _memory(what: str, samples: list[Sample], least: int) -> Finding:
    growth = fit([(sample.at, sample.resident) for sample in samples])
    if growth is None:
        return Finding(what, False, "too few samples")
    return Finding(what, growth.within(_SHARE, least), _told(growth))


def _told(growth: Growth) -> str:
    minutes = growth.seconds / 60
    return f"{_mebibytes(growth.mean)} on average, {growth.rise / 2**20:+.1f} MiB in {minutes:.1f} min (linear fit)"


def text(run: Run, findings: list[Finding]) -> str:
    journal = run.journal
    most = max(count for _, count in run.watch.counts)
    lines = [
        f"{run.minutes:g} minutes, {sum(journal.done.values())} exchanges, {len(journal.kills)} workers killed, at most {most}"
        f" processes at a time, {len(run.watch.seen)} in all.",
        "",
        "| | | |",
        "|---|---|---|",
        *(f"| {finding.what} | {'good' if finding.good else '**bad**'} | {finding.figures} |" for finding in findings),
        "",
        f"Done: {_counted(journal.done)}",
        f"Errors that a fault explains: {_counted(journal.excused)}",
        f"States of the models at the kills: {_counted(journal.phases)}",
    ]
    for kept in (journal.wrong, journal.unexplained, journal.stuck):
        lines += [f"- {line}" for line in kept]
    return "\n".join(lines)


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counter.most_common()) or "none"


def _some(lines: list[str]) -> str:
    return (
        str(len(lines)) if len(lines) < 2 or len(set(lines)) > 3 else f"{len(lines)}: {', '.join(sorted(set(lines)))}"
    )


def _mebibytes(size: float) -> str:
    return f"{size / 2**20:.1f} MiB"
