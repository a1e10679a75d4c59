"""The mean of several rounds' weights: it often does better than each of them (model soups, https://arxiv.org/abs/2203.05482).

python -m training.average --models DIR/run/model DIR/run2/model --out DIR/mean/model
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from mlx.utils import tree_map
from mlx_lm.utils import dequantize_model, load_model

from training.model import save


def average(folders: Sequence[Path], out: Path) -> None:
    """A folder with the mean of the weights of folders of one shape, quantized ones widened; beside it a log, for the card."""
    models = [dequantize_model(load_model(folder)[0]) for folder in folders]
    parameters = [model.parameters() for model in models]
    models[0].update(tree_map(lambda *weights: sum(weights) / len(weights), *parameters))
    settings = json.loads((folders[0] / "config.json").read_text())
    save(models[0], {key: value for key, value in settings.items() if "quantization" not in key}, folders[0], out)
    (out.parent / "log.jsonl").write_text(json.dumps({"averaged": len(folders)}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Average the weights of several rounds.")
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="folders of one shape")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    average(options.models, options.out)


if __name__ == "__main__":
    main()
