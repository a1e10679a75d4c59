"""Every step in order: tokenizer, data and training side by side, evaluation, quantization, export.

What is there already is kept, so the same command goes on where a stopped one left off.

    python -m training.all --out DIR --minutes 12 [--stop-after 8]
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from training.data.__main__ import count


def command(module: str, **options: object) -> list[str]:
    """The command line of a step. An option that is None is left out."""
    line = [sys.executable, "-m", f"training.{module}"]
    for name, value in options.items():
        if value is not None:
            line += [f"--{name.replace('_', '-')}", str(value)]
    return line


def main() -> None:
    started = time.monotonic()
    parser = argparse.ArgumentParser(description="Make the demo model from nothing.")
    parser.add_argument("--out", type=Path, required=True, help="folder for everything; OUT/demo is the result")
    parser.add_argument("--minutes", type=float, default=12.0, help="training time in all")
    parser.add_argument("--tokens", type=count, default="300M", help="how many tokens of data, as 300M")
    parser.add_argument(
        "--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2), help="processes that generate data"
    )
    parser.add_argument(
        "--stop-after", type=float, help="leave this many minutes after the start; the same command goes on"
    )
    options = parser.parse_args()
    out: Path = options.out
    tokenizer, data, run = out / "tokenizer", out / "data", out / "run"
    if not (tokenizer / "tokenizer.json").exists():
        subprocess.run(command("tokenizer", out=tokenizer), check=True)
    generating = subprocess.Popen(
        command("data", tokenizer=tokenizer, out=data, tokens=options.tokens, workers=options.workers),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        left = options.stop_after and options.stop_after - (time.monotonic() - started) / 60
        line = command("train", data=data, tokenizer=tokenizer, out=run, minutes=options.minutes, stop_after=left)
        finished = subprocess.run(line, check=False).returncode
    finally:
        with suppress(ProcessLookupError):
            os.killpg(generating.pid, signal.SIGTERM)  # the pool's processes, too
        generating.wait()
    if finished != 0:  # training.train.STOPPED, or an error
        sys.exit(finished)
    subprocess.run(command("export", model=run / "model", out=out / "demo"), check=True)


if __name__ == "__main__":
    main()
