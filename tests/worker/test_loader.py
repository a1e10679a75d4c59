"""From a folder to a model, and from a broken folder to an error that says what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlx.utils import tree_flatten

from mlx_server_nano.errors import ModelLoadError, OutOfMemoryError, UnsupportedModelError
from mlx_server_nano.protocol import LoadOptions
from mlx_server_nano.types import Sampling
from mlx_server_nano.worker import loader
from tests.worker import harness
from tests.worker.conftest import Tiny


@pytest.fixture
def folder(tiny_folder: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy of a tiny model's folder, to be damaged."""

    def copy(arch: str = "llama", **settings: Any) -> Path:
        return Path(shutil.copytree(tiny_folder(arch, **settings), tmp_path / "model"))

    return copy


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def configured(folder: Path, **values: Any) -> Path:
    """With these values in `config.json`; None removes one."""

    def change(config: dict[str, Any]) -> None:
        config.update(values)
        for key in [key for key, value in config.items() if value is None]:
            del config[key]

    rewrite(folder / "config.json", change)
    return folder


@pytest.mark.parametrize("settings", [{}, {"shards": 3}, {"bits": 4}, {"dtype": "bfloat16"}], ids=str)
def test_what_is_known_of_a_loaded_model(tiny_folder, settings):
    progress: list[float] = []
    folder = tiny_folder("qwen2", **settings)
    loaded = loader.load(folder, LoadOptions(log_name="test"), progress.append)
    info = loaded.info
    assert (info.model_type, info.context_length, info.batchable) == ("qwen2", 4096, True)
    assert info.vocab_size == 3282
    assert info.weights_bytes == sum(array.nbytes for _, array in tree_flatten(loaded.model.parameters()))
    assert info.chats and info.chat_template is not None and "<|im_start|>" in info.chat_template
    assert progress == sorted(progress) and progress[-1] == 1.0
    element = 4 if settings.get("dtype") is None else 2
    assert loaded.kv_bytes_per_token == 2 * 2 * 2 * 16 * element, "layers, keys and values, heads, dimension"


def test_progress_comes_in_portions(tiny_folder, monkeypatch):
    monkeypatch.setattr(loader, "_EVAL_BYTES", 100_000)
    progress: list[float] = []
    loader.load(tiny_folder("llama"), LoadOptions(log_name="test"), progress.append)
    assert len(progress) > 3 and progress == sorted(progress)
    assert 0 < progress[0] < 1 and progress[-1] == 1


def test_only_growing_caches_count_per_token(tiny: Tiny):
    assert tiny("gemma3_text").kv_bytes_per_token == 2 * 2 * 16 * 4, "one of two layers"
    assert tiny("mamba2").kv_bytes_per_token == 0
    assert not tiny("mamba2").cuttable and not tiny("gemma3_text").cuttable and tiny("llama").cuttable


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_position_embeddings": 777}, 777),
        ({"max_position_embeddings": None}, 32768),
        ({"max_position_embeddings": None, "max_seq_len": 99}, 99),
        ({"rope_scaling": {"rope_type": "linear", "factor": 4.0, "original_max_position_embeddings": 2048}}, 8192),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 4096),
        ({"rope_scaling": {"rope_type": "linear", "factor": 1.5, "original_max_position_embeddings": 128}}, 4096),
        ({"text_config": {"max_position_embeddings": 555}}, 555),
        ({"text_config": {"vocab_size": 3282}}, 4096),
    ],
)
def test_context_length(folder, config, expected):
    path = configured(folder(), **config)
    if expected == 32768:
        rewrite(path / "tokenizer_config.json", lambda content: content.pop("model_max_length", None))
    assert harness.load(path).info.context_length == expected


def test_end_of_sequence_ids_of_all_places_count(folder):
    path = configured(folder(), eos_token_id=[7, 8], text_config={"eos_token_id": 9})
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [10, True, "x", -1, 10**9]}))
    loaded = harness.load(path)
    assert loaded.eos_ids == {7, 8, 9, 10, loaded.tokenizer.eos_token_id}


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        ({}, (0.7, 1.0, 0, 0.0, 1.0)),
        ({"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.1, "repetition_penalty": 1.05}, None),
        ({"do_sample": False, "temperature": 0.6}, (0.0, 1.0, 0, 0.0, 1.0)),
        ({"temperature": "hot", "top_k": -1, "top_p": None, "repetition_penalty": 0}, (0.7, 1.0, 0, 0.0, 1.0)),
    ],
)
def test_sampling_defaults(tiny_folder, generation, expected):
    folder = tiny_folder("qwen2", generation_config={"eos_token_id": 3, **generation})
    sampling = harness.load(folder).row_sampling(Sampling())
    found = (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p, sampling.repetition_penalty)
    assert found == (expected or (0.6, 0.95, 20, 0.1, 1.05))
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.seed) == (0.0, 0.0, None)


def test_a_requests_own_sampling_comes_first(tiny_folder):
    folder = tiny_folder("qwen2", generation_config={"temperature": 0.6, "top_k": 20, "repetition_penalty": 1.1})
    loaded = harness.load(folder)
    sampling = loaded.row_sampling(Sampling(temperature=0.0, top_k=0, repetition_penalty=1.0, seed=0))
    assert (sampling.temperature, sampling.top_k, sampling.repetition_penalty, sampling.seed) == (0.0, 0, 1.0, 0)
    assert not sampling.penalized


def test_a_damaged_optional_file_is_ignored(folder, caplog):
    path = folder()
    (path / "generation_config.json").write_text("{")
    assert harness.load(path).row_sampling(Sampling()).temperature == 0.7
    assert "generation_config.json" in caplog.text


# What can be wrong.


def with_header(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """A safetensors file whose header is another: its length in 8 bytes, then JSON, then the tensors."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    change(header)
    written = json.dumps(header).encode()
    path.write_bytes(len(written).to_bytes(8, "little") + written + content[end:])


def first_tensor(header: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(value for name, value in header.items() if name != "__metadata__")
    return found


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "no config": (lambda p: (p / "config.json").unlink(), UnsupportedModelError, "no config.json"),
    "config is no JSON": (lambda p: (p / "config.json").write_text("{"), ModelLoadError, "config.json"),
    "config is binary": (lambda p: (p / "config.json").write_bytes(b"\xff\xfe"), ModelLoadError, "config.json"),
    "config is a list": (lambda p: (p / "config.json").write_text("[]"), UnsupportedModelError, "model_type"),
    "no model_type": (lambda p: configured(p, model_type=None), UnsupportedModelError, "model_type"),
    "unknown model_type": (lambda p: configured(p, model_type="gpt5"), UnsupportedModelError, "gpt5"),
    "a setting is missing": (lambda p: configured(p, hidden_size=None), ModelLoadError, "hidden_size"),
    "a setting is wrong": (lambda p: configured(p, num_attention_heads="four"), ModelLoadError, "."),
    "other shapes than said": (lambda p: configured(p, hidden_size=96), ModelLoadError, "."),
    "more layers than there are": (lambda p: configured(p, num_hidden_layers=3), ModelLoadError, "parameters"),
    "no weights": (lambda p: (p / "model.safetensors").unlink(), UnsupportedModelError, "no safetensors"),
    "weights cut off": (lambda p: truncate(p / "model.safetensors"), ModelLoadError, "."),
    "weights empty": (lambda p: (p / "model.safetensors").write_bytes(b""), ModelLoadError, "."),
    "weights are text": (lambda p: (p / "model.safetensors").write_text("version https://x\n"), ModelLoadError, "."),
    "weights' header is beyond the end": (
        lambda p: (p / "model.safetensors").write_bytes((2**40).to_bytes(8, "little") + b"{}"),
        ModelLoadError,
        ".",
    ),
    "weights' header is no JSON": (
        lambda p: (p / "model.safetensors").write_bytes((4).to_bytes(8, "little") + b"{{{{" + bytes(99)),
        ModelLoadError,
        ".",
    ),
    "a tensor is beyond the end": (
        lambda p: with_header(
            p / "model.safetensors", lambda h: first_tensor(h).update(data_offsets=[10**12, 10**12 + 4])
        ),
        ModelLoadError,
        ".",
    ),
    "a tensor of an unknown type": (
        lambda p: with_header(p / "model.safetensors", lambda h: first_tensor(h).update(dtype="F7")),
        ModelLoadError,
        ".",
    ),
    "a tensor of another shape": (
        lambda p: with_header(p / "model.safetensors", lambda h: first_tensor(h).update(shape=[3, 5, 7])),
        ModelLoadError,
        ".",
    ),
    "tokenizer is a list": (lambda p: (p / "tokenizer.json").write_text("[]"), ModelLoadError, "tokenizer"),
    "tokenizer is empty": (lambda p: (p / "tokenizer.json").write_text(""), ModelLoadError, "tokenizer"),
    "tokenizer's settings are cut off": (
        lambda p: truncate(p / "tokenizer_config.json"),
        ModelLoadError,
        "tokenizer",
    ),
    "a vocabulary size is text": (lambda p: configured(p, vocab_size="many"), ModelLoadError, "."),
    "a hidden size of nothing": (lambda p: configured(p, hidden_size=0), ModelLoadError, "."),
    "layers below nothing": (lambda p: configured(p, num_hidden_layers=-1), ModelLoadError, "."),
    "no tokenizer": (lambda p: (p / "tokenizer.json").unlink(), ModelLoadError, "tokenizer"),
    "tokenizer cut off": (lambda p: truncate(p / "tokenizer.json"), ModelLoadError, "tokenizer"),
    "code for the model": (lambda p: configured(p, model_file="m.py"), UnsupportedModelError, "--trust-remote-code"),
    "template is no Jinja": (
        lambda p: rewrite(p / "tokenizer_config.json", lambda c: c.update(chat_template="{% if %}")),
        ModelLoadError,
        "chat template",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_folder_says_what_is_wrong(folder, damage):
    break_it, error, says = DAMAGES[damage]
    path = folder()
    break_it(path)
    with pytest.raises(error, match=says) as caught:
        harness.load(path)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value) and str(path.parent) not in str(caught.value)


def test_a_missing_shard(folder):
    path = folder(shards=3)
    (path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelLoadError, match="Missing"):
        harness.load(path)


def test_a_tokenizer_with_code_of_its_own(folder):
    path = folder()
    (path / "tokenizer.json").unlink()
    rewrite(
        path / "tokenizer_config.json",
        lambda c: c.update(tokenizer_class="OwnTokenizer", auto_map={"AutoTokenizer": ["own.OwnTokenizer", None]}),
    )
    with pytest.raises(UnsupportedModelError, match="--trust-remote-code"):
        harness.load(path)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[metal::malloc] Unable to allocate 1 bytes"), RuntimeError("Out of memory")]
)
def test_too_little_memory(tiny_folder, monkeypatch, error):
    def load_model(*args: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(loader, "load_model", load_model)
    with pytest.raises(OutOfMemoryError):
        harness.load(tiny_folder("llama"))


def test_a_model_that_can_not_run(tiny_folder, tiny: Tiny, monkeypatch):
    def call(self: Any, *args: Any, **options: Any) -> Any:
        raise ValueError("shapes\nand more")

    monkeypatch.setattr(type(tiny("llama").model), "__call__", call)
    with pytest.raises(ModelLoadError, match=r"shapes$"):
        harness.load(tiny_folder("llama"))


def test_a_model_whose_rows_do_not_go_together_runs_them_alone(tiny_folder, tiny: Tiny, monkeypatch, caplog):
    """As Gemma 2 in mlx-lm, whose attention takes no mask for each row."""
    model = type(tiny("llama").model)
    plain = model.__call__

    def call(self: Any, inputs: Any, cache: Any = None) -> Any:
        if inputs.shape[0] > 1:
            raise ValueError("one row at a time")
        return plain(self, inputs, cache=cache)

    monkeypatch.setattr(model, "__call__", call)
    assert not harness.load(tiny_folder("llama")).info.batchable
    assert "one row at a time" in caplog.text
