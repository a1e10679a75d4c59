"""What a model's files tell of it without loading it."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlx_server_nano.chat.detect import detect
from mlx_server_nano.models.folder import WEIGHTS

# As the worker looks for it.
_CONTEXT: Final = ("max_position_embeddings", "max_seq_len", "n_positions", "seq_length", "max_sequence_length")
_TYPES: Final = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """size: bytes of all files. tool_format: one of `chat.formats`. quantization: as `4-bit`, `mxfp4` or `bf16`; empty: not
    told. context_length: tokens, as far as config.json tells. last_used: when the weights were last read, as the file
    system tells, in Unix seconds."""

    size: int
    tool_format: str
    quantization: str
    context_length: int | None
    last_used: float


def read_facts(folder: Path, tool_format: str | None = None) -> ModelFacts:
    """tool_format: what the configuration says. Raises OSError."""
    files = [path.stat() for path in folder.iterdir() if path.is_file()]
    weights = [path.stat() for path in folder.iterdir() if WEIGHTS.fullmatch(path.name)]
    config = _json(folder / "config.json")
    text = config.get("text_config") or config
    lengths = [place[key] for place in (text, config) for key in _CONTEXT if isinstance(place.get(key), int)]
    return ModelFacts(
        size=sum(stat.st_size for stat in files),
        tool_format=tool_format or detect(_template(folder)).name,
        quantization=_quantization(config),
        context_length=next((length for length in lengths if length > 0), None),
        last_used=max((stat.st_atime for stat in weights), default=0.0),
    )


def _json(file: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        value = json.loads(file.read_bytes())
        if isinstance(value, dict):
            return value
    return {}


def _template(folder: Path) -> str | None:
    """As transformers finds it: a file of its own, else in tokenizer_config.json, where several have names."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return (folder / "chat_template.jinja").read_text("utf-8")
    template = _json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("tool_use") or named.get("default")
    return template if isinstance(template, str) else None


def _quantization(config: dict[str, Any]) -> str:
    """mlx-lm writes `quantization` with `bits`, and a `mode` that is not `affine` for formats with names of their own."""
    told = config.get("quantization") or config.get("quantization_config")
    if isinstance(told, dict):
        mode = told.get("mode") or told.get("quant_method")
        if isinstance(told.get("bits"), int) and mode in (None, "affine"):
            mixed = {layer["bits"] for layer in told.values() if isinstance(layer, dict) and "bits" in layer}
            return f"{told['bits']}-bit{' mixed' if mixed - {told['bits']} else ''}"
        return str(mode or "")
    kind = config.get("torch_dtype") or config.get("dtype") or (config.get("text_config") or {}).get("torch_dtype")
    return _TYPES.get(str(kind), str(kind or ""))
