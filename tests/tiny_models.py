"""Tiny random models in the Hub's layout: what `mlx_lm.load` and this server load, of a few hundred kilobytes.

    make_model(folder, "qwen3_moe", bits=4, shards=2)

The weights are random but shaped so that greedy output wanders over the vocabulary instead of repeating one token, which
makes comparisons of outputs mean something. Tokenizers, with their chat templates, come from the shared assets.
"""

from __future__ import annotations

import contextlib
import io
import json
import lzma
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

ASSETS = Path(__file__).resolve().parents[2] / "shared" / "assets"

_DENSE: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 4096,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}
_EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_intermediate_size": 64,
    "norm_topk_prob": True,
}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "qwen2": {**_DENSE, "architectures": ["Qwen2ForCausalLM"]},
    "qwen3": {**_DENSE, "architectures": ["Qwen3ForCausalLM"], "head_dim": 16},
    "qwen3_moe": {**_DENSE, **_EXPERTS, "architectures": ["Qwen3MoeForCausalLM"], "head_dim": 16},
    "llama": {**_DENSE, "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False},
    "mistral": {**_DENSE, "architectures": ["MistralForCausalLM"], "head_dim": 16, "tie_word_embeddings": False},
    # Every second layer looks back 32 tokens only: a RotatingKVCache.
    "gemma3_text": {
        **_DENSE,
        "architectures": ["Gemma3ForCausalLM"],
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "rope_local_base_freq": 10000.0,
        "sliding_window": 32,
        "sliding_window_pattern": 2,
    },
    # Three gated-delta layers and one of attention: ArraysCache beside KVCache.
    "qwen3_next": {
        **_DENSE,
        **_EXPERTS,
        "architectures": ["Qwen3NextForCausalLM"],
        "num_hidden_layers": 4,
        "full_attention_interval": 4,
        "head_dim": 16,
        "partial_rotary_factor": 0.5,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "linear_conv_kernel_dim": 4,
        "shared_expert_intermediate_size": 64,
    },
    # Short convolutions and attention in turn.
    "lfm2": {
        **_DENSE,
        "architectures": ["Lfm2ForCausalLM"],
        "norm_eps": 1e-5,
        "conv_bias": False,
        "conv_L_cache": 3,
        "block_dim": 64,
        "block_ff_dim": 128,
        "block_multiple_of": 32,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
        "full_attn_idxs": [1],
    },
    "mamba2": {
        "architectures": ["Mamba2ForCausalLM"],
        "num_heads": 4,
        "head_dim": 32,
        "hidden_size": 64,
        "intermediate_size": 128,
        "state_size": 16,
        "num_hidden_layers": 2,
        "layer_norm_epsilon": 1e-5,
        "conv_kernel": 4,
        "n_groups": 1,
        "use_bias": False,
        "use_conv_bias": True,
        "tie_word_embeddings": True,
        "time_step_limit": [0.0, 100.0],
        "time_step_rank": 4,
        "max_position_embeddings": 4096,
    },
}


def assets() -> Path:
    """The shared test assets; the calling test is skipped where they are not."""
    if not ASSETS.is_dir():
        pytest.skip(f"no test assets in {ASSETS}")
    return ASSETS


def copy_tokenizer(folder: Path, name: str) -> dict[str, Any]:
    """Unpack a tokenizer of the shared assets, chat template included, into `folder`; returns its `tokenizer.json`."""
    source = assets() / "tokenizers" / name
    shutil.copy(source / "tokenizer_config.json", folder)
    packed = source / "tokenizer.json.xz"
    text = lzma.decompress(packed.read_bytes()) if packed.exists() else (source / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(text)
    tokenizer: dict[str, Any] = json.loads(text)
    return tokenizer


def _token_ids(tokenizer: dict[str, Any]) -> dict[str, int]:
    return tokenizer["model"]["vocab"] | {token["content"]: token["id"] for token in tokenizer["added_tokens"]}


def make_model(
    folder: Path,
    arch: str = "qwen3",
    tokenizer: str = "mini-dense-qwen3",
    *,
    bits: int | None = None,
    shards: int = 1,
    dtype: str = "float32",
    seed: int = 0,
    generation_config: dict[str, Any] | None = None,
    **config: Any,
) -> Path:
    """Write a random model of `arch` (a key of ARCHITECTURES) into `folder`, which is made; returns it.

    bits: quantize in groups of 32. shards: weight files; more than one come with an index. dtype: an `mlx.core` float type.
    generation_config: replaces the default, which holds the end-of-sequence ids only; {} writes no file.
    config: changes the architecture's `config.json`; a value of None removes the key from the file.
    """
    import mlx.core as mx
    from mlx.utils import tree_flatten, tree_map_with_path
    from mlx_lm.utils import _get_classes, quantize_model

    folder.mkdir(parents=True, exist_ok=True)
    ids = _token_ids(copy_tokenizer(folder, tokenizer))
    eos = ids[json.loads((folder / "tokenizer_config.json").read_text())["eos_token"]]
    settings = {
        "model_type": arch,
        **ARCHITECTURES[arch],
        "vocab_size": max(ids.values()) + 1,
        "eos_token_id": eos,
        "torch_dtype": dtype,
        **config,
    }

    mx.random.seed(seed)
    model_class, args_class = _get_classes(settings)
    model = model_class(args_class.from_dict(settings))
    if arch == "gemma3_text":
        model.sanitize({})  # ties the embeddings

    def initial(path: str, weight: Any) -> Any:
        if weight.ndim < 2:
            return weight
        # Blocks must outweigh the embedding that they add to, else a tied head returns the token it was given.
        gain = 3.0
        if "embed" in path:
            gain = 0.1 if arch == "gemma3_text" else 1.0  # Gemma multiplies its embeddings by 8 here
        fan_in = weight.shape[-1] if "switch_mlp" in path else math.prod(weight.shape[1:])
        return mx.random.normal(weight.shape) * (gain / math.sqrt(fan_in))

    model.update(tree_map_with_path(initial, model.parameters()))
    model.set_dtype(getattr(mx, dtype))
    if bits is not None:
        with contextlib.redirect_stdout(io.StringIO()):
            model, settings = quantize_model(model, settings, group_size=32, bits=bits)

    _save_weights(folder, dict(tree_flatten(model.parameters())), shards)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in settings.items() if v is not None}, indent=2))
    if generation_config is None:
        generation_config = {"eos_token_id": [eos]}
    if generation_config:
        (folder / "generation_config.json").write_text(json.dumps(generation_config, indent=2))
    return folder


def _save_weights(folder: Path, weights: dict[str, Any], shards: int) -> None:
    import mlx.core as mx

    if shards == 1:
        mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
        return
    names = sorted(weights)
    files = {
        name: f"model-{i * shards // len(names) + 1:05d}-of-{shards:05d}.safetensors" for i, name in enumerate(names)
    }
    for file in sorted(set(files.values())):
        part = {name: weights[name] for name in names if files[name] == file}
        mx.save_safetensors(str(folder / file), part, metadata={"format": "mlx"})
    total = sum(weight.nbytes for weight in weights.values())
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": files}, indent=2)
    )


def make_adapter(
    folder: Path, model: Path, *, kind: str = "lora", rank: int = 4, keys: list[str] | None = None, **config: Any
) -> Path:
    """Write a random adapter for a model's folder, as mlx-lm's training would, into `folder`; returns it.

    kind: `lora`, `dora` or `full`. keys: the linear layers that it changes. config: changes `adapter_config.json`; None
    removes a key from the file.
    """
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model

    folder.mkdir(parents=True)
    loaded, _ = load_model(model)
    layers = len(loaded.layers)
    parameters = {"rank": rank, "scale": 2.0, "dropout": 0.5, "keys": keys or ["self_attn.q_proj", "mlp.down_proj"]}
    if kind != "full":
        linear_to_lora_layers(loaded, layers, parameters, use_dora=kind == "dora")
    mx.random.seed(7)
    weights = {
        name: mx.random.normal(weight.shape) * 0.5
        for name, weight in tree_flatten(loaded.parameters())
        if name.rpartition(".")[2] in ("lora_a", "lora_b") or (kind == "full" and name.endswith("q_proj.weight"))
    }
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    settings = {"fine_tune_type": kind, "num_layers": layers, "lora_parameters": parameters, **config}
    kept = {name: value for name, value in settings.items() if value is not None}
    (folder / "adapter_config.json").write_text(json.dumps(kept))
    return folder
