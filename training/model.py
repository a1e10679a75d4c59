"""The demo model's shape, its first weights, and its folder in the Hub's layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from shutil import copyfile
from typing import Any, Final

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_lm.models import qwen3
from tokenizers import Tokenizer

from training.render import END_OF_TURN
from training.tokenizer import PADDING, token_id

TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")

# 7.5 million parameters: 8.5 MB at 8 bits. Few layers, as a token's cost on a CPU is as much that of their small operations as
# of the products. All widths are multiples of the quantization group, 64, as CUDA's kernels want.
SHAPE: Final[Mapping[str, Any]] = {
    "hidden_size": 384,
    "num_hidden_layers": 4,
    "intermediate_size": 768,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
}
TINY: Final[Mapping[str, Any]] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
}


def config(tokenizer: Tokenizer, shape: Mapping[str, Any] = SHAPE) -> dict[str, Any]:
    """config.json for a shape and a tokenizer."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        **shape,
        "vocab_size": -(-tokenizer.get_vocab_size() // 64) * 64,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "bos_token_id": None,
        "eos_token_id": token_id(tokenizer, END_OF_TURN),
        "pad_token_id": token_id(tokenizer, PADDING),
    }


def build(settings: Mapping[str, Any]) -> nn.Module:
    return qwen3.Model(qwen3.ModelArgs.from_dict(dict(settings)))


def initialise(model: nn.Module, layers: int, seed: int) -> None:
    """Normal weights; what writes to the residual stream is smaller the more layers write to it."""
    mx.random.seed(seed)

    def draw(path: str, weight: Any) -> Any:
        if weight.ndim < 2:
            return weight
        if "embed" in path:
            scale = 0.02
        else:
            scale = weight.shape[-1] ** -0.5
            if "o_proj" in path or "down_proj" in path:
                scale /= (2 * layers) ** 0.5
        return mx.random.normal(weight.shape) * scale

    model.update(tree_map_with_path(draw, model.parameters()))
    mx.eval(model.parameters())


def parameters(model: nn.Module) -> int:
    return sum(weight.size for _, weight in tree_flatten(model.parameters()))


def save(model: nn.Module, settings: Mapping[str, Any], tokenizer: Path, out: Path) -> None:
    """A folder that any MLX server, and transformers, can load. Weights are stored in the type they have."""
    out.mkdir(parents=True, exist_ok=True)
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(out / "model.safetensors"), weights, metadata={"format": "mlx"})
    (out / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    generation = {
        "do_sample": False,
        "temperature": 0.0,
        "eos_token_id": [settings["eos_token_id"], settings["pad_token_id"]],
        "pad_token_id": settings["pad_token_id"],
    }
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    for name in TOKENIZER_FILES:
        copyfile(tokenizer / name, out / name)
