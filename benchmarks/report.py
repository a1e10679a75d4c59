"""The table: ratios first, then the figures behind them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.figures import middle, ratio

Figures = Mapping[str, float | None]
"""What one contestant showed in one round, by key."""

Rounds = Sequence[Figures]


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"


def _milliseconds(value: float) -> str:
    return f"{_count(1000 * value)} ms"


def _microseconds(value: float) -> str:
    return f"{_count(1e6 * value)} µs"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _mebibytes(value: float) -> str:
    return f"{value / (1 << 20):,.0f} MiB"


@dataclass(frozen=True, slots=True)
class Row:
    """A key of the figures, what it is called, how a value is written, and whether a ratio means something."""

    key: str
    label: str
    write: Callable[[float], str] = _count
    compared: bool = True


_TIMES: Final = (
    Row("first_token_idle", "time to first token, idle", _milliseconds),
    Row("first_token_loaded", "time to first token beside running streams", _milliseconds),
    Row("long_first_token", "time to first token of the long prompt, idle", _milliseconds),
    Row("long_first_token_loaded", "time to first token of the long prompt beside running streams", _milliseconds),
    Row("gap_median", "median gap in running streams", _milliseconds),
    Row("gap_largest", "largest gap when the long prompt arrives", _milliseconds),
    Row("gap_largest_in_medians", "the same in median gaps"),
    Row("gap_allowed", "twice the median gap and one prefill chunk", _milliseconds, compared=False),
    Row("help", "`--help`", _milliseconds),
    Row("listening", "start until listening", _milliseconds),
    Row("cold_first_token", "start until the first token", _milliseconds),
)
_MEMORY: Final = (
    Row("idle_bytes", "memory without a model (this server: no spare worker)", _mebibytes),
    Row("spare_bytes", "memory without a model, spare worker ready", _mebibytes),
    Row("loaded_bytes", "memory, model loaded", _mebibytes),
    Row("busy_bytes", "memory after all loads", _mebibytes),
    Row("device_bytes", "GPU memory after all loads", _mebibytes),
    Row("mlx_bytes", "MLX's own peak", _mebibytes),
)


def rows(clients: Sequence[int], connections: int) -> list[Row]:
    return [
        *(Row(f"tokens_per_second.{n}", f"tokens/s, {_clients(n)}") for n in clients),
        *(Row(f"full_batch.{n}", f"tokens/s while all {n} stream") for n in clients if n > 1),
        *(Row(f"cpu.{n}", f"CPU time per token, {_clients(n)}", _microseconds) for n in clients),
        *_TIMES,
        *_MEMORY,
        Row("connections_answered", f"answered of {connections} clients at once", compared=False),
        Row("gateway_cpu", "the gateway's CPU time per token at the most clients", _microseconds, compared=False),
        Row("generator_share", "the load generator's share of a core meanwhile", _percent, compared=False),
    ]


def _clients(n: int) -> str:
    return "1 client" if n == 1 else f"{n} clients"


def table(wanted: Sequence[Row], nano: Rounds, rival: Rounds, bare: Rounds) -> str:
    """Markdown. A row that nobody measured is left out; a cell without a measurement is empty."""
    lines = [
        "| | ÷ `mlx_lm.server` | ÷ bare loop | this server | `mlx_lm.server` | bare loop |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in wanted:
        ours, theirs, loops = ([figures.get(row.key) for figures in rounds] for rounds in (nano, rival, bare))
        values = [middle(measured) for measured in (ours, theirs, loops)]
        if all(value is None for value in values):
            continue
        ratios = [ratio(ours, other) if row.compared else None for other in (theirs, loops)]
        cells = [
            row.label,
            *("" if value is None else f"**{value:.2f}**" for value in ratios),
            *("" if value is None else row.write(value) for value in values),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
