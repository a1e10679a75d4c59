"""LoRA adapters: what mlx-lm's own loading gives, and what is said of those that don't fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import pytest
from mlx_lm.generate import stream_generate

from mlx_server_nano.errors import ModelLoadError
from mlx_server_nano.worker.fingerprint import fingerprint
from tests.tiny_models import make_adapter
from tests.worker import harness
from tests.worker.harness import Driver

PROMPT = [5, 7, 9, 11, 13]


def greedy(loaded: Any, count: int = 12) -> str:
    driver = Driver(loaded)
    driver.tokens(PROMPT, max_tokens=count)
    driver.tokens(PROMPT[:3], max_tokens=count)  # in company
    driver.run()
    return driver.answers()[1, 0].text


@pytest.mark.parametrize(
    ("settings", "kind"),
    [({}, "lora"), ({"bits": 4}, "lora"), ({"dtype": "bfloat16"}, "lora"), ({}, "dora"), ({}, "full")],
    ids=str,
)
def test_an_adapter_changes_what_the_model_says_as_in_mlx_lm(
    tiny_folder: Callable[..., Path], tmp_path: Path, settings: dict[str, Any], kind: str
) -> None:
    folder = tiny_folder("qwen3", **settings)
    adapter = make_adapter(tmp_path / "adapter", folder, kind=kind)
    loaded = harness.load(folder, adapter=str(adapter))
    assert (loaded.info.weights_bytes > harness.load(folder).info.weights_bytes) == (kind != "full")
    model, tokenizer, *_ = mlx_lm.load(str(folder), adapter_path=str(adapter))
    expected = [step.token for step in stream_generate(model, tokenizer, PROMPT, max_tokens=12)]
    text = greedy(loaded)
    assert text == loaded.vocabulary.text_of(expected)
    assert text != greedy(harness.load(folder))


def test_layers_of_experts(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_folder("qwen3_moe")
    adapter = make_adapter(tmp_path / "adapter", folder, keys=["mlp.switch_mlp.gate_proj", "self_attn.o_proj"])
    assert greedy(harness.load(folder, adapter=str(adapter))) != greedy(harness.load(folder))


def refusal(folder: Path, adapter: Path) -> str:
    with pytest.raises(ModelLoadError) as caught:
        harness.load(folder, adapter=str(adapter))
    assert str(adapter.parent) not in caught.value.message
    return caught.value.message


def test_another_models_adapter(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "mine", tiny_folder("qwen3"))
    told = refusal(tiny_folder("qwen3", hidden_size=32), adapter)
    assert "The adapter mine can't be used with this model" in told and "does not match" in told
    assert "not an adapter parameter" in refusal(tiny_folder("mamba2"), adapter)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"num_layers": None}, "adapter_config.json lacks 'num_layers'."),
        ({"lora_parameters": None}, "adapter_config.json lacks 'lora_parameters'."),
        ({"lora_parameters": {"rank": 4, "dropout": 0.0, "alpha": 2}}, "lacks"),
        ({"lora_parameters": {"rank": 5, "scale": 2.0, "dropout": 0.0}}, "does not match"),
        ({"lora_parameters": 7}, "can't be used"),
    ],
)
def test_another_configuration(
    tiny_folder: Callable[..., Path], tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    assert told in refusal(tiny_folder("qwen3"), make_adapter(tmp_path / "a", tiny_folder("qwen3"), **change))


def test_damaged_and_missing_files(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_folder("qwen3")
    adapter = make_adapter(tmp_path / "a", folder)
    weights = adapter / "adapters.safetensors"
    mx.save_safetensors(str(weights), {})
    assert "adapters.safetensors is empty" in refusal(folder, adapter)
    weights.write_bytes(b"\0" * 20)
    assert "can't be used" in refusal(folder, adapter)
    weights.unlink()
    assert "can't be used" in refusal(folder, adapter)
    (adapter / "adapter_config.json").write_text("{")
    assert "can't be used" in refusal(folder, adapter)


def test_prefixes_of_one_adapter_are_not_those_of_another(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_folder("qwen3")
    adapter = make_adapter(tmp_path / "a", folder)
    caches = harness.load(folder).new_caches()
    prints = {fingerprint(folder, caches), fingerprint(folder, caches, adapter)}
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["lora_parameters"]["scale"] = 3.0
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    prints.add(fingerprint(folder, caches, adapter))
    assert len(prints) == 3
