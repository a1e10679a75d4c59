"""Quantizes the trained model, keeps the smallest form that keeps the skills, and writes it in the Hub's layout.

python -m training.export --model DIR/run/model --out DIR/demo [--bits 4 6 8]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree, rmtree
from typing import Final

from mlx_lm.utils import load_model, quantize_model

from training import card
from training.data.conversation import Skill
from training.evaluate import EACH, Score, as_json, default_rows, evaluate, mean, table
from training.model import save

LARGEST: Final = 12_000_000  # bytes of the folder
LOSS: Final = 1.0  # points of the mean score that a smaller form may cost
GROUP: Final = 64


def quantize(folder: Path, bits: int, out: Path) -> None:
    """A model folder's copy in `bits` bits, the embedding included.

    Scales, offsets and norms stay float32: with bfloat16 ones, MLX's CPU build decodes at a fifth of the speed.
    """
    model, _ = load_model(folder)
    settings = json.loads((folder / "config.json").read_text())  # mlx-lm's has the generation config mixed in
    model, settings = quantize_model(model, settings, GROUP, bits)
    save(model, settings, folder, out)


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


@dataclass(frozen=True, slots=True)
class Form:
    """The model in one precision: its name, folder, size in bytes and scores."""

    name: str
    folder: Path
    size: int
    scores: Mapping[Skill, Score]

    @property
    def mean(self) -> float:
        return mean(self.scores)


def choose(forms: Sequence[Form]) -> Form:
    """The smallest form within LOSS points of the best mean, of those that are small enough.

    Raises ValueError where all are too large.
    """
    fitting = [form for form in forms if form.size <= LARGEST]
    if not fitting:
        raise ValueError(f"no form of the model is below {LARGEST} bytes")
    best = max(form.mean for form in fitting)
    return min((form for form in fitting if form.mean >= best - LOSS), key=lambda form: form.size)


def measure(name: str, folder: Path, each: int, rows: int) -> Form:
    form = Form(name, folder, size(folder), evaluate(folder, each, rows, folder.with_suffix(".misses.jsonl")))
    print(f"\n{name}: {form.size / 1e6:.2f} MB, mean {form.mean:.1f} %\n\n{table(form.scores)}", flush=True)
    return form


def export(trained: Path, out: Path, bits: Sequence[int], each: int, rows: int, earlier: Sequence[Path] = ()) -> Form:
    """Compare the forms and put the chosen one, with its card, into `out`. `earlier`: logs of earlier rounds."""
    out.parent.mkdir(parents=True, exist_ok=True)
    forms = [measure("trained, float32", trained, each, rows)]
    for width in bits:
        folder = out.with_name(f"{out.name}-{width}bit")
        quantize(trained, width, folder)
        forms.append(measure(f"{width} bits", folder, each, rows))
    chosen = choose(forms[1:])
    rmtree(out, ignore_errors=True)
    copytree(chosen.folder, out)
    report = {form.name: {"bytes": form.size, "scores": as_json(form.scores)} for form in forms}
    out.with_suffix(".scores.json").write_text(json.dumps({"chosen": chosen.name, "forms": report}, indent=2) + "\n")
    (out / "README.md").write_text(card.text(chosen, forms, [*earlier, trained.parent / "log.jsonl"]))
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description="Quantize, compare and export the trained model.")
    parser.add_argument("--model", type=Path, required=True, help="the trained folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for the chosen form")
    parser.add_argument("--bits", type=int, nargs="+", default=(4, 8), help="forms to compare")
    parser.add_argument("--earlier", type=Path, nargs="+", default=(), help="logs of the rounds before this one")
    parser.add_argument("--each", type=int, default=EACH, help="prompts for each skill")
    parser.add_argument("--rows", type=int, default=default_rows(), help="decoded at once")
    options = parser.parse_args()
    chosen = export(options.model, options.out, options.bits, options.each, options.rows, options.earlier)
    print(f"\n{chosen.name} is now {options.out}")


if __name__ == "__main__":
    main()
