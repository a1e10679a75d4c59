"""This server beside `mlx_lm.server` and mlx-lm's bare loops on one model folder, in one run.

    python -m benchmarks.serve                        # a small random model, made on the spot
    python -m benchmarks.serve --model FOLDER --clients 1,8,16,32 --device "one H200"

The contestants take turns, one at a time, for some rounds; ratios are taken within a round. Prints a Markdown table and
writes it beside a JSON file with every figure of every round."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct, structs

from benchmarks import report
from benchmarks.contest import BareRound, Record, ServerRound, Sizes
from benchmarks.servers import Contestant, environment

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


class Run(Struct, frozen=True, kw_only=True):
    """All that was measured. records: by contestant, a record a round."""

    title: str
    sizes: Sizes
    records: dict[str, list[Record]]

    def figures(self, contestant: str) -> report.Rounds:
        return [record.figures for record in self.records.get(contestant, [])]

    def markdown(self) -> str:
        rows = report.rows(self.sizes.clients, self.sizes.connections)
        table = report.table(rows, *(self.figures(name) for name in (Contestant.NANO, Contestant.MLX_LM, _BARE)))
        return f"{self.title}\n\n{table}\n"


def measure(model: Path, sizes: Sizes, contestants: list[str], title: str) -> Run:
    """Rounds of all contestants, every second one in the opposite order."""
    records: dict[str, list[Record]] = {name: [] for name in contestants}
    for i in range(sizes.rounds):
        for name in contestants if i % 2 == 0 else reversed(contestants):
            print(f"round {i + 1} of {sizes.rounds}: {name}", file=sys.stderr, flush=True)
            if name == _BARE:
                record = BareRound(model, sizes).run()
            else:
                record = ServerRound(Contestant(name), model, sizes).run(footprint=i == 0)
            records[name].append(record)
    return Run(title=title, sizes=sizes, records=records)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="in the Hub's layout; default: a random model")
    parser.add_argument(
        "--shape", default="tiny", help="of the random model: micro, tiny, 0.6B, 4B, 8B (default: tiny)"
    )
    parser.add_argument("--dtype", help="of the random model (default: bfloat16 on a GPU, else float32)")
    parser.add_argument(
        "--tokenizer", type=Path, metavar="FOLDER", help="for the random model; default: one is trained"
    )
    parser.add_argument("--quick", action="store_true", help="one round of 1 and 8 clients, short answers")
    parser.add_argument("--clients", type=lambda text: tuple(int(n) for n in text.split(",")), metavar="N,N,...")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--prompt", type=int, metavar="TOKENS")
    parser.add_argument("--output-tokens", dest="output", type=int, metavar="TOKENS")
    parser.add_argument("--long-prompt", type=int, metavar="TOKENS")
    parser.add_argument("--connections", type=int, metavar="N", help="clients at once, none refused; 0: skip")
    parser.add_argument("--only", default=f"{_BARE},nano,mlx_lm", metavar="NAME,...", help="default: %(default)s")
    parser.add_argument("--device", default="", metavar="NOTE", help="what the machine is, for the title")
    parser.add_argument("--output-file", type=Path, default=Path("build/benchmark"), help="without suffix")
    return parser.parse_args()


def _sizes(given: argparse.Namespace, gpu: bool) -> Sizes:
    sizes = _GPU if gpu else _SMALL
    if given.quick:
        sizes = structs.replace(
            sizes, clients=(1, 8), rounds=1, output=sizes.output // 2, long_prompt=sizes.long_prompt // 2, probes=4
        )
    names = ("clients", "rounds", "prompt", "output", "long_prompt", "connections")
    return structs.replace(sizes, **{n: getattr(given, n) for n in names if getattr(given, n) is not None})


def _title(given: argparse.Namespace) -> str:
    model = given.model.name if given.model else f"random Qwen3 {given.shape}"
    machine = given.device or f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores"
    return f"{model}; {machine}; mlx {version('mlx')}, mlx-lm {version('mlx-lm')}, Python {platform.python_version()}"


def main() -> None:
    given = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the server that runs must not outlive a time limit
    gpu = platform.system() == "Darwin" or shutil.which("nvidia-smi") is not None
    with tempfile.TemporaryDirectory() as temporary:
        model = given.model or Path(temporary) / given.shape
        if given.model is None:
            dtype = given.dtype or ("bfloat16" if gpu else "float32")
            command = [sys.executable, "-m", "benchmarks.random_model", given.shape, str(model), "--dtype", dtype]
            if given.tokenizer:
                command += ["--tokenizer", str(given.tokenizer)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment(model))
        run = measure(model.resolve(), _sizes(given, gpu), given.only.split(","), _title(given))
    given.output_file.parent.mkdir(parents=True, exist_ok=True)
    given.output_file.with_suffix(".json").write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1))
    given.output_file.with_suffix(".md").write_text(run.markdown())
    print(run.markdown())


if __name__ == "__main__":
    main()
