from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mlx_server_nano.models.catalog import BUILT_IN
from mlx_server_nano.models.facts import read_facts
from tests.models.folders import write_model


def test_the_demo() -> None:
    facts = read_facts(BUILT_IN["demo"])
    assert (facts.tool_format, facts.quantization, facts.context_length) == ("hermes", "8-bit", 4096)
    assert facts.size > 1 << 20


@pytest.mark.parametrize(
    ("config", "quantization", "context"),
    [
        ({}, "", None),
        ({"torch_dtype": "bfloat16", "max_position_embeddings": 10}, "bf16", 10),
        ({"text_config": {"torch_dtype": "float16", "max_position_embeddings": 10}}, "fp16", 10),
        ({"quantization": {"group_size": 64, "bits": 4}}, "4-bit", None),
        ({"quantization": {"bits": 4, "lm_head": {"bits": 8}}}, "4-bit mixed", None),
        ({"quantization": {"bits": 4, "mode": "mxfp4"}}, "mxfp4", None),
        ({"quantization_config": {"quant_method": "fp8"}}, "fp8", None),
        ({"max_position_embeddings": "many"}, "", None),
    ],
)
def test_what_a_configuration_tells(tmp_path: Path, config, quantization: str, context: int | None) -> None:
    folder = write_model(tmp_path / "m", files={"config.json": json.dumps(config)})
    facts = read_facts(folder)
    assert (facts.quantization, facts.context_length) == (quantization, context)


TOOLS = '{{ tools }}<tool_call>{"name": <name>, "arguments": <arguments>}</tool_call>'


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (TOOLS, "hermes"),
        ([{"name": "default", "template": ""}, {"name": "tool_use", "template": TOOLS}], "hermes"),
        (None, "plain"),
    ],
)
def test_a_template_in_the_tokenizers_configuration(tmp_path: Path, template: object, expected: str) -> None:
    folder = write_model(tmp_path / "m", files={"tokenizer_config.json": json.dumps({"chat_template": template})})
    (folder / "chat_template.jinja").unlink()
    assert read_facts(folder).tool_format == expected
    assert read_facts(folder, "mistral").tool_format == "mistral"


def test_size_and_last_use(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", shards=2)
    for number, name in enumerate(sorted(path.name for path in folder.glob("*.safetensors"))):
        os.utime(folder / name, (1000 + number, 5000))
    facts = read_facts(folder)
    assert facts.last_used == 1001
    assert 10002 < facts.size < 10500
