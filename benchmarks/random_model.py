"""A model with random weights in a real model's shape: decoding costs what it costs with trained weights.

    python -m benchmarks.random_model 8B FOLDER --tokenizer TOKENIZER_FOLDER

Without a tokenizer to take, a byte-level BPE is trained on the spot. Greedy output runs to the token limit and every
token is visible text that stays the same token beside any other, so that an answer that is sent back becomes the tokens
that it was: the head's rows of all other ids (end of sequence, special tokens, padding, pieces of characters) are zero, so
their logits are 0 and never the largest. Nothing is asked of a server for that."""

from __future__ import annotations

import argparse
import json
import math
import shutil
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_lm.models import qwen3
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from benchmarks import prompts

_TEMPLATE: Final = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
_END: Final = "<|end|>"
# As newer tokenizers have it: letters with the one mark or space before them, digits one by one, other marks, white space.
_PIECES: Final = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_ENOUGH: Final = 100
_TRAINING_WORDS: Final = 60_000
_TRAINED_ENTRIES: Final = 4096


@dataclass(frozen=True, slots=True)
class Shape:
    """Qwen3's dimensions. `vocab_size` is padded beyond the tokenizer's entries."""

    hidden: int
    layers: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    tied: bool
    vocab_size: int = 151_936


# In micro and thin a step costs what the host makes of it, as on a fast GPU: thin has a real model's layers. tiny suits two
# CPU cores and MLX's stock wheels, whose matrix products are slow there. The others are Qwen3's own.
SHAPES: Final = {
    "micro": Shape(32, 2, 64, 2, 1, 16, True, 1_024),
    "thin": Shape(32, 28, 64, 2, 1, 16, True, 1_024),
    "tiny": Shape(128, 4, 384, 2, 1, 64, True, 8_192),
    "0.6B": Shape(1024, 28, 3072, 16, 8, 128, True),
    "4B": Shape(2560, 36, 9728, 32, 8, 128, True),
    "8B": Shape(4096, 36, 12288, 32, 8, 128, False),
}


def make(folder: Path, shape: Shape, *, tokenizer: Path | None = None, dtype: str = "bfloat16", bits: int = 0) -> None:
    """Write the model into `folder`, which is made. `bits` quantizes in groups of 64."""
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer is None:
        _train_tokenizer(folder, min(shape.vocab_size, _TRAINED_ENTRIES))
    else:
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            if (tokenizer / name).exists():
                shutil.copy(tokenizer / name, folder)
    model, config = build(folder, shape, dtype=dtype, bits=bits)
    mx.save_safetensors(
        str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())), metadata={"format": "mlx"}
    )
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [config["eos_token_id"]]}))


def build(folder: Path, shape: Shape, *, dtype: str = "bfloat16", bits: int = 0) -> tuple[Any, dict[str, Any]]:
    """The model in memory alone, for the tokenizer in `folder`, and its `config.json`."""
    entries = Tokenizer.from_file(str(folder / "tokenizer.json"))
    end: Any = entries.token_to_id(json.loads((folder / "tokenizer_config.json").read_text())["eos_token"])
    config = _config(shape, end, dtype)

    mx.random.seed(0)
    model = qwen3.Model(qwen3.ModelArgs.from_dict(config))
    keep = mx.array(_reachable(entries, shape.vocab_size)[:, None])
    head = "model.embed_tokens.weight" if shape.tied else "lm_head.weight"

    def initial(path: str, weight: Any) -> Any:
        if weight.ndim < 2:
            return weight.astype(getattr(mx, dtype))
        # Blocks must outweigh the embedding that they add to, else a tied head returns the token it was given.
        gain = (1.0 if "embed" in path else 3.0) / math.sqrt(weight.shape[-1])
        weight = (mx.random.normal(weight.shape, dtype=mx.bfloat16) * gain).astype(getattr(mx, dtype))
        weight = mx.where(keep, weight, 0).astype(weight.dtype) if path == head else weight
        mx.eval(weight)
        return weight

    model.update(tree_map_with_path(initial, model.parameters()))
    if bits:
        nn.quantize(model, group_size=64, bits=bits)
        config["quantization"] = {"group_size": 64, "bits": bits}
    return model, config


def _config(shape: Shape, end: int, dtype: str) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "intermediate_size": shape.intermediate,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "tie_word_embeddings": shape.tied,
        "vocab_size": shape.vocab_size,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "max_position_embeddings": 40_960,
        "eos_token_id": end,
        "torch_dtype": dtype,
    }


def _train_tokenizer(folder: Path, entries: int) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=entries,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|start|>", _END],
        show_progress=False,
    )
    text = prompts.text(0, _TRAINING_WORDS)
    tokenizer.train_from_iterator([text, text.replace(" ", "_")], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": _END,
                "clean_up_tokenization_spaces": False,
                "chat_template": _TEMPLATE,
            }
        )
    )


def _reachable(tokenizer: Any, vocab_size: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """`[vocab_size]`: the ids of an ASCII punctuation mark and letters, as `_name`, if the tokenizer cuts text before the mark;
    else, if there are hardly any, all ids of printable ASCII."""
    visible, marked = np.zeros((2, vocab_size), dtype=np.bool_)
    added = tokenizer.get_added_tokens_decoder()
    for token_id in range(min(vocab_size, tokenizer.get_vocab_size())):
        text = tokenizer.decode([token_id]) if token_id not in added else ""
        visible[token_id] = text.isascii() and text.isprintable() and text.strip() != ""
        if visible[token_id] and text[0] in string.punctuation and text[1:].isalpha():
            ids = tokenizer.encode(f"\n{text}{text}", add_special_tokens=False).ids
            marked[token_id] = ids[-2:] == [token_id, token_id]
    return marked if marked.sum() >= _ENOUGH else visible


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizer", type=Path, metavar="FOLDER", help="whose tokenizer to take")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--bits", type=int, default=0, choices=[0, 4, 8], help="quantize")
    given = parser.parse_args()
    make(given.folder, SHAPES[given.shape], tokenizer=given.tokenizer, dtype=given.dtype, bits=given.bits)
    print(given.folder)


if __name__ == "__main__":
    main()
