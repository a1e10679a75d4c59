"""A stand-in for the demo model until trained weights are published: its tokenizer, template and shape, but random weights.

python -m training.untrained --out DIR

What it says is noise; everything around it is real.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import mlx.core as mx

from training import model, tokenizer

SEED: Final = 1
CONVERSATIONS: Final = 1_000  # enough for a tokenizer that nobody is to judge


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the demo model with random weights.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, in the Hub's layout")
    out: Path = parser.parse_args().out
    learned = tokenizer.train(tokenizer.texts(CONVERSATIONS))
    settings = model.config(learned)
    untrained = model.build(settings)
    model.initialise(untrained, settings["num_hidden_layers"], SEED)
    untrained.set_dtype(mx.bfloat16)
    with TemporaryDirectory() as folder:
        tokenizer.save(learned, Path(folder), settings["max_position_embeddings"])
        model.save(untrained, settings, Path(folder), out)


if __name__ == "__main__":
    main()
