"""Quantizes the trained model, keeps the smallest form that keeps the skills, and writes it in the Hub's layout.

    python -m training.export --model DIR/run/model --out DIR/demo [--bits 4 6 8]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any, Final

import mlx.core as mx
from mlx_lm.utils import load_model, quantize_model

from training import card, evaluate
from training.model import save

LARGEST: Final = 12_000_000  # bytes of the folder
LOSS: Final = 1.0  # points of the mean score that a smaller form may cost
GROUP: Final = 64


def quantize(folder: Path, bits: int, out: Path) -> None:
    """A model folder's copy in `bits` bits, the embedding included."""
    model, settings = load_model(folder)
    model, settings = quantize_model(model, settings, GROUP, bits)
    save(model, settings, folder, out)


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def choose(measured: Sequence[tuple[Path, float, int]]) -> Path:
    """The smallest folder within LOSS points of the best mean, of those that are small enough.

    `measured`: folder, mean score in per cent, bytes. Raises ValueError where all are too large.
    """
    fitting = [entry for entry in measured if entry[2] <= LARGEST]
    if not fitting:
        raise ValueError(f"no form of the model is below {LARGEST} bytes")
    best = max(mean for _, mean, _ in fitting)
    return min((entry for entry in fitting if entry[1] >= best - LOSS), key=lambda entry: entry[2])[0]


def main() -> None:
    parser = argparse.ArgumentParser(description="Quantize, compare and export the trained model.")
    parser.add_argument("--model", type=Path, required=True, help="the trained folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for the chosen form")
    parser.add_argument("--bits", type=int, nargs="+", default=(4, 6, 8), help="forms to compare")
    parser.add_argument("--each", type=int, default=250, help="prompts for each skill")
    parser.add_argument("--rows", type=int, default=256 if mx.default_device() == mx.gpu else 32, help="decoded at once")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    measured: list[tuple[Path, float, int]] = []
    report: dict[str, Any] = {"trained": evaluate.as_json(evaluate.evaluate(options.model, options.each, options.rows))}
    for bits in options.bits:
        folder = options.out.with_name(f"{options.out.name}-{bits}bit")
        quantize(options.model, bits, folder)
        scores = evaluate.evaluate(folder, options.each, options.rows, folder.with_suffix(".misses.jsonl"))
        measured.append((folder, evaluate.mean(scores), size(folder)))
        report[f"{bits} bits"] = {"bytes": size(folder), **evaluate.as_json(scores)}
        print(f"\n{bits} bits, {size(folder) / 1e6:.2f} MB, mean {measured[-1][1]:.1f} %\n\n{evaluate.table(scores)}", flush=True)
    chosen = choose(measured)
    rmtree(options.out, ignore_errors=True)
    copytree(chosen, options.out)
    report["chosen"] = chosen.name
    options.out.with_suffix(".scores.json").write_text(json.dumps(report, indent=2) + "\n")
    card.write(options.out, report, options.model.parent)
    print(f"\n{chosen.name} is now {options.out}")


if __name__ == "__main__":
    main()
