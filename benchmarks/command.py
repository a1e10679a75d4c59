"""What the benchmarks of servers have in common on the command line: the model, the title, the files."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import report
from benchmarks.report import Row
from benchmarks.rounds import Records
from benchmarks.servers import environment


def parser(about: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="in the Hub's layout; default: a random model")
    parser.add_argument(
        "--shape", default="tiny", help="of the random model: micro, tiny, 0.6B, 4B, 8B (default: tiny)"
    )
    parser.add_argument("--dtype", help="of the random model (default: bfloat16 on a GPU, else float32)")
    parser.add_argument(
        "--tokenizer", type=Path, metavar="FOLDER", help="for the random model; default: one is trained"
    )
    parser.add_argument("--device", default="", metavar="NOTE", help="what the machine is, for the title")
    parser.add_argument("--rounds", type=int)
    return parser


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split(","))


def on_gpu() -> bool:
    return platform.system() == "Darwin" or shutil.which("nvidia-smi") is not None


def title(given: argparse.Namespace) -> str:
    model = given.model.name if given.model else f"random Qwen3 {given.shape}"
    machine = given.device or f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores"
    return f"{model}; {machine}; mlx {version('mlx')}, mlx-lm {version('mlx-lm')}, Python {platform.python_version()}"


@contextlib.contextmanager
def model(given: argparse.Namespace) -> Iterator[Path]:
    """The folder that is named, or a random model's for the time of the block. Ends it by SystemExit on SIGTERM: the server that
    runs must not outlive a time limit."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.model or Path(temporary) / given.shape
        if given.model is None:
            dtype = given.dtype or ("bfloat16" if on_gpu() else "float32")
            command = [sys.executable, "-m", "benchmarks.random_model", given.shape, str(folder), "--dtype", dtype]
            if given.tokenizer:
                command += ["--tokenizer", str(given.tokenizer)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment(folder))
        yield folder.resolve()


class Result:
    """The files of one table: FILE.md and FILE.json, written anew whenever a round is through."""

    def __init__(self, file: Path, title: str, sizes: Any, rows: list[Row], names: Mapping[str, str]) -> None:
        """names: what the columns are called, by contestant; ratios are those of the first to each of the others."""
        self._file = file
        self._title = title
        self._sizes = sizes
        self._rows = rows
        self._names = names
        self.markdown = ""

    def save(self, records: Records) -> None:
        columns = {name: records[who] for who, name in self._names.items() if who in records}
        table = report.table(self._rows, {n: [r.figures for r in rounds] for n, rounds in columns.items()})
        troubles = report.troubles({name: [r.troubles for r in rounds] for name, rounds in columns.items()})
        self.markdown = "\n\n".join(filter(None, [self._title, table, troubles])) + "\n"
        everything = {"title": self._title, "sizes": self._sizes, "records": records}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.with_name(self._file.name + ".md").write_text(self.markdown)
        self._file.with_name(self._file.name + ".json").write_bytes(
            msgspec.json.format(msgspec.json.encode(everything), indent=1)
        )
