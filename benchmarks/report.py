"""The table: ratios first, then the figures behind them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.figures import middle, ratio

Figures = Mapping[str, float | None]
"""What one contestant showed in one round, by key."""

Rounds = Sequence[Figures]


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"


def milliseconds(value: float) -> str:
    return f"{_count(1000 * value)} ms"


def _microseconds(value: float) -> str:
    return f"{_count(1e6 * value)} µs"


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def mebibytes(value: float) -> str:
    return f"{value / (1 << 20):,.0f} MiB"


@dataclass(frozen=True, slots=True)
class Row:
    """A key of the figures, what it is called, how a value is written, and whether a ratio means something."""

    key: str
    label: str
    write: Callable[[float], str] = _count
    compared: bool = True


_TIMES: Final = (
    Row("first_token_idle", "time to first token, idle", milliseconds),
    Row("first_token_loaded", "time to first token beside running streams", milliseconds),
    Row("long_first_token", "time to first token of the long prompt, idle", milliseconds),
    Row("long_first_token_loaded", "time to first token of the long prompt beside running streams", milliseconds),
    Row("gap_median", "median gap in running streams", milliseconds),
    Row("gap_largest", "largest gap when the long prompt arrives", milliseconds),
    Row("gap_largest_in_medians", "the same in median gaps"),
    Row("gap_allowed", "twice the median gap and one prefill chunk", milliseconds, compared=False),
    Row("help", "`--help`", milliseconds),
    Row("listening", "start until listening", milliseconds),
    Row("cold_first_token", "start until the first token", milliseconds),
)
_MEMORY: Final = (
    Row("idle_bytes", "memory without a model (this server: no spare worker)", mebibytes),
    Row("spare_bytes", "memory without a model, spare worker ready", mebibytes),
    Row("loaded_bytes", "memory, model loaded", mebibytes),
    Row("busy_bytes", "memory after all loads", mebibytes),
    Row("device_bytes", "GPU memory after all loads", mebibytes),
    Row("mlx_bytes", "MLX's own peak", mebibytes),
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
        Row("generator_share", "the load generator's share of a core meanwhile", percent, compared=False),
    ]


def _clients(n: int) -> str:
    return "1 client" if n == 1 else f"{n} clients"


def table(wanted: Sequence[Row], columns: Mapping[str, Rounds]) -> str:
    """Markdown: the ratios of the first column to each of the others, then all columns. A row that nobody measured is left out;
    a cell without a measurement is empty."""
    (_, ours), *others = columns.items()
    lines = [
        f"| | {' | '.join([*(f'÷ {name}' for name, _ in others), *columns])} |",
        f"|---|{(len(others) + len(columns)) * '---:|'}",
    ]
    for row in wanted:
        first, *rest = ([figures.get(row.key) for figures in rounds] for rounds in (ours, *(r for _, r in others)))
        values = [middle(measured) for measured in (first, *rest)]
        if all(value is None for value in values):
            continue
        ratios = [ratio(first, other) if row.compared else None for other in rest]
        cells = [
            row.label,
            *("" if value is None else f"**{value:.2f}**" for value in ratios),
            *("" if value is None else row.write(value) for value in values),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def troubles(columns: Mapping[str, Sequence[Mapping[str, Mapping[str, int]]]]) -> str:
    """A line for everything that went wrong, over all rounds; empty if nothing did."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for name, rounds in columns.items():
        for met in rounds:
            for load, kinds in met.items():
                counts.update({(name, load, kind): times for kind, times in kinds.items()})
    return "\n".join(f"- {name}, {load}: {times} × {kind}" for (name, load, kind), times in counts.items())
