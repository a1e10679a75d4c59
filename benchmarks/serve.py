"""This server beside `mlx_lm.server` and mlx-lm's bare loops on one model folder, in one run.

    python -m benchmarks.serve                        # a small random model, made on the spot
    python -m benchmarks.serve --model FOLDER --clients 1,8,16,32 --device "one H200"

The contestants take turns, one at a time, for some rounds; ratios are taken within a round. Prints a Markdown table; it is
written beside a JSON file with every figure of every round, both anew whenever a contestant is through."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from msgspec import structs

from benchmarks import command, report
from benchmarks.command import Result
from benchmarks.contest import BareRound, ServerRound, Sizes
from benchmarks.rounds import Round, take_turns
from benchmarks.servers import Contestant

_SMALL: Final = Sizes(
    clients=(1, 8, 16, 32),
    prompt=64,
    output=64,
    stream_output=4096,
    long_prompt=2000,
    streams=4,
    probes=8,
    connections=256,
    rounds=2,
)
_GPU: Final = Sizes(
    clients=(1, 8, 16, 32),
    prompt=230,
    output=128,
    stream_output=4096,
    long_prompt=13_000,
    streams=4,
    probes=8,
    connections=256,
    rounds=3,
)
_BARE: Final = "bare"


_NAMES: Final = {Contestant.NANO: "this server", Contestant.MLX_LM: "`mlx_lm.server`", _BARE: "bare loop"}


def _arguments() -> argparse.Namespace:
    parser = command.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of 1 and 8 clients, short answers")
    parser.add_argument("--clients", type=command.numbers, metavar="N,N,...")
    parser.add_argument(
        "--batch", type=int, metavar="N", help="requests that each server decodes together (default: 32)"
    )
    parser.add_argument("--prompt", type=int, metavar="TOKENS")
    parser.add_argument("--output-tokens", dest="output", type=int, metavar="TOKENS")
    parser.add_argument("--long-prompt", type=int, metavar="TOKENS")
    parser.add_argument("--connections", type=int, metavar="N", help="clients at once, none refused; 0: skip")
    parser.add_argument("--only", default=f"{_BARE},nano,mlx_lm", metavar="NAME,...", help="default: %(default)s")
    parser.add_argument("--output-file", type=Path, default=Path("build/benchmark"), help="without suffix")
    return parser.parse_args()


def _sizes(given: argparse.Namespace) -> Sizes:
    sizes = _GPU if command.on_gpu() else _SMALL
    if given.quick:
        sizes = structs.replace(
            sizes, clients=(1, 8), rounds=1, output=sizes.output // 2, long_prompt=sizes.long_prompt // 2, probes=4
        )
    names = ("clients", "batch", "rounds", "prompt", "output", "long_prompt", "connections")
    return structs.replace(sizes, **{n: getattr(given, n) for n in names if getattr(given, n) is not None})


def main() -> None:
    given = _arguments()
    sizes = _sizes(given)
    result = Result(
        given.output_file, command.title(given), sizes, report.rows(sizes.clients, sizes.connections), _NAMES
    )
    with command.model(given) as model:

        def begin(name: str, turn: int) -> Round:
            if name == _BARE:
                return BareRound(model, sizes)
            return ServerRound(Contestant(name), model, sizes, footprint=turn == 0)

        take_turns(given.only.split(","), sizes.rounds, begin, result.save)
    print(result.markdown)


if __name__ == "__main__":
    main()
