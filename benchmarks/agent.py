"""What a coding agent waits for: this server beside `mlx_lm.server` on one model folder, over HTTP, in one run.

    python -m benchmarks.agent                                      # a small random model, made on the spot
    python -m benchmarks.agent --model FOLDER --parts turns --system 30000 --turns 10

The parts, each with a table of its own, which is printed, and written when a contestant is through:

turns     a conversation that grows turn by turn: a system prompt, then messages and answers, all sent back
restart   its next turn after the server was started anew, and after the model was unloaded: with `--prefix-cache-dir` and without
lengths   answers to short prompts, without and with one beside them whose prompt is long"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from msgspec import Struct, structs

from benchmarks import command
from benchmarks.command import Result
from benchmarks.conversation import Disk, Lengths, LengthsRound, RestartRound, Talk, TalkRound
from benchmarks.report import Row, mebibytes, milliseconds, percent
from benchmarks.rounds import Round, take_turns
from benchmarks.servers import Contestant

Begin = Callable[[str, int], Round]
"""Makes a contestant's round, given its name and the round's number."""

_SERVERS: Final[Mapping[str, str]] = {Contestant.NANO: "this server", Contestant.MLX_LM: "`mlx_lm.server`"}
_DISKS: Final[Mapping[str, str]] = {Disk.FILES: "with `--prefix-cache-dir`", Disk.NOTHING: "without"}


class Sizes(Struct, frozen=True, kw_only=True):
    """Lengths in tokens. system, turns: of each conversation. lengths: a long prompt and the short ones beside it, each time.
    output: of an answer in a conversation; stream: of one in `lengths`."""

    system: tuple[int, ...]
    turns: tuple[int, ...]
    message: int
    output: int
    lengths: tuple[tuple[int, ...], ...]
    stream: int
    rounds: int


_GPU: Final = Sizes(
    system=(6_800, 30_000),
    turns=(5, 10),
    message=300,
    output=128,
    lengths=((32_000, 64), (8_192, *[16] * 7)),
    stream=256,
    rounds=2,
)
_SMALL: Final = Sizes(
    system=(1_500,), turns=(4,), message=100, output=32, lengths=((2_000, 64), (1_000, *[16] * 7)), stream=96, rounds=2
)
_QUICK: Final = Sizes(system=(400,), turns=(3,), message=50, output=16, lengths=((400, 16),), stream=32, rounds=1)


def _memory() -> Iterator[Row]:
    yield Row("resident_bytes", "memory afterwards, all processes", mebibytes)
    yield Row("device_bytes", "GPU memory afterwards", mebibytes)


def _talk_rows(talk: Talk) -> list[Row]:
    return [
        Row("turn.1", "time to first token, first turn", milliseconds),
        Row("later_turns", "time to first token, later turns (median)", milliseconds),
        *(Row(f"turn.{n}", f"time to first token, turn {n}", milliseconds) for n in range(2, talk.turns + 1)),
        Row("whole", "all turns together", milliseconds),
        Row("rate", "tokens/s within an answer"),
        Row("cached", "share of the later prompts that was cached", percent, compared=False),
        Row("uncached", "tokens of a later prompt that were not (median)", compared=False),
        *_memory(),
    ]


_RESTART_ROWS: Final = [
    Row("restart", "after a restart, model loaded: time to first token of the next turn", milliseconds),
    Row("restart_cached", "share of it that was cached", percent, compared=False),
    Row("reload", "after an unload: time to first token of the next turn, the load included", milliseconds),
    Row("reload_cached", "share of it that was cached", percent, compared=False),
    Row("stop", "stopping the server", milliseconds),
    Row("unload", "unloading the model", milliseconds),
]


def _length_rows(lengths: Lengths) -> list[Row]:
    long, count = f"{lengths.long:,}", len(lengths.short)
    short = f"{lengths.short[0]:,}" if count == 1 else f"{count} × {lengths.short[0]:,}"
    return [
        Row("short_kept", f"speed of {short} tokens beside {long}, of that without", percent, compared=False),
        Row("long_kept", f"speed of {long} tokens beside {short}, of that alone", percent, compared=False),
        Row("short", f"tokens/s, {short} beside {long}, each"),
        Row("short_apart", f"tokens/s, {short} without, each"),
        Row("long", f"tokens/s, {long} beside {short}"),
        Row("long_apart", f"tokens/s, {long} alone"),
        Row("first", f"time to first token, {short} beside {long}", milliseconds),
        Row("first_apart", f"time to first token, {short} without", milliseconds),
        Row("device_growth", "GPU memory that being together added", mebibytes),
        *_memory(),
    ]


class Benchmark:
    """The parts, by their names, on one model folder."""

    def __init__(self, model: Path, sizes: Sizes, contestants: Sequence[str], title: str, folder: Path) -> None:
        """contestants: of `turns` and `lengths`. folder: for the tables."""
        self._model = model
        self._sizes = sizes
        self._contestants = contestants
        self._title = title
        self._folder = folder

    def turns(self) -> None:
        for talk in self._talks():
            self._measure(
                f"turns-{talk.system}x{talk.turns}",
                f"a system prompt of {talk.system:,} tokens, {talk.turns} turns of {talk.message}",
                talk,
                _talk_rows(talk),
                _SERVERS,
                partial(TalkRound, self._model, talk),
            )

    def restart(self) -> None:
        for talk in self._talks():
            self._measure(
                f"restart-{talk.system}",
                f"a system prompt of {talk.system:,} tokens, turns of {talk.message}",
                talk,
                _RESTART_ROWS,
                _DISKS,
                partial(RestartRound, self._model, talk),
            )

    def lengths(self) -> None:
        for long, *short in self._sizes.lengths:
            lengths = Lengths(long=long, short=tuple(short), output=self._sizes.stream)
            self._measure(
                f"lengths-{long}+{len(short)}",
                f"prompts of {', '.join(f'{n:,}' for n in (long, *short))} tokens",
                lengths,
                _length_rows(lengths),
                _SERVERS,
                partial(LengthsRound, self._model, lengths),
            )

    def _talks(self) -> list[Talk]:
        sizes = self._sizes
        return [
            Talk(system=system, turns=turns, message=sizes.message, output=sizes.output)
            for system, turns in zip(sizes.system, sizes.turns, strict=True)
        ]

    def _measure(
        self, name: str, what: str, sizes: Struct, rows: list[Row], names: Mapping[str, str], begin: Begin
    ) -> None:
        print(name, file=sys.stderr, flush=True)
        result = Result(self._folder / name, f"{self._title}; {what}", sizes, rows, names)
        contestants = self._contestants if names is _SERVERS else list(names)
        take_turns(contestants, self._sizes.rounds, begin, result.save)
        print(result.markdown, flush=True)


_PARTS: Final = {"turns": Benchmark.turns, "restart": Benchmark.restart, "lengths": Benchmark.lengths}


def _lengths(text: str) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(n) for n in part.split("+")) for part in text.split(","))


def _arguments() -> argparse.Namespace:
    parser = command.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of short lengths")
    parser.add_argument("--parts", default=",".join(_PARTS), metavar="NAME,...", help="default: %(default)s")
    parser.add_argument("--only", default=",".join(_SERVERS), metavar="NAME,...", help="default: %(default)s")
    parser.add_argument("--system", type=command.numbers, metavar="TOKENS,...", help="a conversation each")
    parser.add_argument("--turns", type=command.numbers, metavar="N,...", help="of each of them")
    parser.add_argument("--message", type=int, metavar="TOKENS", help="of what is said at each turn")
    parser.add_argument("--output-tokens", dest="output", type=int, metavar="TOKENS", help="of an answer to it")
    parser.add_argument(
        "--lengths", type=_lengths, metavar="N+N+...,...", help="the long prompt and the short ones, each time"
    )
    parser.add_argument("--stream-tokens", dest="stream", type=int, metavar="TOKENS", help="of an answer there")
    parser.add_argument("--output-folder", type=Path, default=Path("build"))
    return parser.parse_args()


def _sizes(given: argparse.Namespace) -> Sizes:
    sizes = _QUICK if given.quick else _GPU if command.on_gpu() else _SMALL
    sizes = structs.replace(
        sizes, **{n: getattr(given, n) for n in Sizes.__struct_fields__ if getattr(given, n) is not None}
    )
    if len(sizes.system) != len(sizes.turns):
        raise SystemExit("--system and --turns want as many numbers")
    return sizes


def main() -> None:
    given = _arguments()
    sizes, parts = _sizes(given), [_PARTS[name] for name in given.parts.split(",")]
    contestants = [Contestant(name) for name in given.only.split(",")]
    with command.model(given) as model:
        benchmark = Benchmark(model, sizes, contestants, command.title(given), given.output_folder)
        for part in parts:
            part(benchmark)


if __name__ == "__main__":
    main()
