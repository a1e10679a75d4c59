"""`mlx-server-nano bench`: how fast a model is on this machine, through the server as clients see it."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import click

from mlx_server_nano.cli.catalogs import OPTIONS, local_catalog
from mlx_server_nano.cli.chat import pick_model
from mlx_server_nano.cli.client import Client
from mlx_server_nano.cli.names import MODEL
from mlx_server_nano.cli.options import server_options, some_options
from mlx_server_nano.cli.private import any_server
from mlx_server_nano.cli.running import load
from mlx_server_nano.cli.table import size, table

_PROMPTS: Final = (128, 512, 2048)  # tokens
_STREAMS: Final = (1, 2, 4, 8)
_TOKENS: Final = 128  # of each answer
_ROUNDS: Final = 2  # of which the best counts
_IDS: Final = (100, 1000)  # every vocabulary has tokens of these ids, hardly any as markup
_START: Final = 16  # tokens of the prompts whose answers are timed


@dataclass(frozen=True, slots=True)
class Prefill:
    prompt_tokens: int
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class Decode:
    """Of all streams together."""

    streams: int
    tokens_per_second: float


def measure_prefill(client: Client, model: str, lengths: Sequence[int] = _PROMPTS) -> list[Prefill]:
    """Prompts of random tokens, so that no cache knows them, with an answer of one token."""
    found = []
    for length in lengths:
        seconds = min(_once(client, model, length) for _ in range(_ROUNDS))
        found.append(Prefill(length, length / seconds))
    return found


def _once(client: Client, model: str, length: int) -> float:
    began = time.perf_counter()
    client.post("/v1/completions", {"model": model, "prompt": _prompt(length), "max_tokens": 1})
    return time.perf_counter() - began


def measure_decode(client: Client, model: str, streams: Sequence[int] = _STREAMS) -> list[Decode]:
    return [Decode(count, max(_together(client, model, count) for _ in range(_ROUNDS))) for count in streams]


def _together(client: Client, model: str, count: int) -> float:
    """Tokens a second of so many streams at once: the sum of their rates, each from its first token to its last."""
    rates = [0.0] * count

    def run(index: int) -> None:
        rates[index] = _rate(client, model)

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(rates)


def _rate(client: Client, model: str) -> float:
    body = {"model": model, "prompt": _prompt(_START), "max_tokens": _TOKENS, "temperature": 1.0, "stream": True}
    first = last = tokens = 0.0
    for event in client.stream("/v1/completions", {**body, "stream_options": {"include_usage": True}}):
        if event.get("usage"):
            tokens = event["usage"]["completion_tokens"]
        elif event["choices"]:
            last = time.perf_counter()
            first = first or last
    return (tokens - 1) / (last - first) if last > first else 0.0


def _prompt(length: int) -> list[int]:
    return [random.randrange(*_IDS) for _ in range(length)]


def memory_bandwidth() -> float | None:
    """Bytes a second, as a process that imports MLX measures them; None if it can't."""
    command = [sys.executable, "-P", "-m", "mlx_server_nano.worker.bandwidth"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return float(done.stdout) if done.returncode == 0 else None


def _weights(model: str, flags: dict[str, Any]) -> int | None:
    """Bytes of the model's weights, if its files are on this machine."""
    from mlx_server_nano.errors import ServerError
    from mlx_server_nano.models.folder import weights_bytes

    with contextlib.suppress(ServerError, OSError):
        if (folder := local_catalog(flags).resolve(model).folder) is not None:
            return weights_bytes(folder)
    return None


def _bench(*, model: str | None, as_json: bool, **flags: Any) -> None:
    """Measure how fast a model is here: prompts, answers of 1 to 8 streams, and how near that is to the memory's limit.

    Through the server that runs, which should have nothing else to do, or one of the command's own.
    """
    with any_server(flags) as client:
        model = model or pick_model(client)
        load(client, model)
        _once(client, model, _START)  # the first pass compiles
        prefill = measure_prefill(client, model)
        decode = measure_decode(client, model)
        here = client.is_local
    weights = _weights(model, flags) if here else None
    bandwidth = memory_bandwidth() if here else None
    if as_json:
        figures: dict[str, Any] = {"model": model, "weights_bytes": weights, "memory_bytes_per_second": bandwidth}
        click.echo(
            json.dumps({**figures, "prefill": [*map(asdict, prefill)], "decode": [*map(asdict, decode)]}, indent=2)
        )
        return
    click.echo(f"{model}{f', weights of {size(weights)}' if weights else ''}")
    rows = [(f"{line.prompt_tokens:,}", f"{line.tokens_per_second:,.0f}") for line in prefill]
    click.echo("\n" + table(("PROMPT TOKENS", "TOKENS/S"), rows, right=(0, 1)))
    base = decode[0].tokens_per_second or 1
    rows4 = [
        (str(line.streams), f"{line.tokens_per_second:,.1f}", f"{line.tokens_per_second / base:.1f} x")
        for line in decode
    ]
    click.echo("\n" + table(("STREAMS", "TOKENS/S", "OF ONE"), rows4, right=(0, 1, 2)))
    if weights and bandwidth:
        limit = bandwidth / weights
        click.echo(
            f"\nThe memory gives {size(bandwidth)}/s: at most {limit:,.1f} tokens/s of one stream that reads all weights. "
            f"It reached {base / limit:.0%}."
        )


bench = click.Command(
    "bench",
    callback=_bench,
    params=[
        click.Argument(["model"], type=MODEL, required=False),
        click.Option(["as_json", "--json"], is_flag=True, help="As JSON."),
        *some_options(*OPTIONS),
        *server_options(),
    ],
    help=_bench.__doc__,
)
