"""What the benchmark and its helper processes say to each other: a job as JSON in, a report as JSON out."""

from __future__ import annotations

import subprocess
import sys
from enum import StrEnum
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from benchmarks.figures import Answer

T = TypeVar("T")


class Scenario(StrEnum):
    """What the load generator's clients do; see the function of the same name in `load`."""

    SATURATE = "saturate"
    PROBE = "probe"
    STALL = "stall"


class LoadJob(Struct, frozen=True, kw_only=True):
    """clients: streams at a time. requests: how many each of them makes in SATURATE, how many probes in PROBE.
    retry: whether a refused request is made again, as the official clients do. seconds: until
    when answers count."""

    port: int
    model: str
    scenario: Scenario
    clients: int
    requests: int
    prompt_words: int
    output_tokens: int
    long_words: int
    seed: int
    retry: bool
    seconds: float


class LoadReport(Struct, frozen=True, kw_only=True):
    """answers: those that count. background: the arrivals of each stream beside them. troubles: refused connections, statuses
    other than 200 and cut streams, with how often each came. cpu_seconds: the generator's own."""

    answers: list[Answer]
    background: list[list[float]]
    troubles: dict[str, int]
    cpu_seconds: float
    wall_seconds: float


class BareJob(Struct, frozen=True, kw_only=True):
    """rows: batch sizes; 1 is `stream_generate`, `repeats` times in a row."""

    model: str
    rows: tuple[int, ...]
    prompt_words: int
    long_words: int
    output_tokens: int
    repeats: int


class BareReport(Struct, frozen=True, kw_only=True):
    """answers, cpu_seconds: by number of rows. long: to the long prompt, alone. memory_bytes: what MLX held at most."""

    answers: dict[int, list[Answer]]
    cpu_seconds: dict[int, float]
    long: Answer
    memory_bytes: int


def run(module: str, job: Struct, report: type[T], environment: dict[str, str]) -> T:
    """Have `python -m module` do the job. Raises CalledProcessError; what it says on standard error is shown. Raises
    RuntimeError if its report is not whole."""
    done = subprocess.run(
        [sys.executable, "-m", module],
        input=msgspec.json.encode(job),
        stdout=subprocess.PIPE,
        check=True,
        env=environment,
    )
    try:
        return msgspec.json.decode(done.stdout, type=report)
    except msgspec.DecodeError as error:
        raise RuntimeError(f"{module} ended with {len(done.stdout)} bytes of a report: {error}") from error


def serve(job: type[T]) -> T:
    """The other side of `run`: the job that this process was started for."""
    return msgspec.json.decode(sys.stdin.buffer.read(), type=job)


def answer(report: Any) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(report))
    sys.stdout.buffer.flush()
