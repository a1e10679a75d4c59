from __future__ import annotations

import json

import pytest

from mlx_server_nano.chat.detect import detect, takes_tools
from mlx_server_nano.errors import InvalidRequestError
from tests.chat.golden import ASSETS, needs_assets

TEMPLATES = ASSETS / "templates"
INDEX = json.loads((TEMPLATES / "index.json").read_text()) if TEMPLATES.is_dir() else []

FORMAT_OF_FAMILY = {
    "command-r": "command-r7b",
    "codellama": "plain",
    "deepseek-r1-distill": "deepseek-v3",
    "gemma": "plain",
    "laguna": "glm-4",
    "llama-4": "pythonic",
    "minimax": "minimax-m2",
    "mistral-v3": "mistral-v7",
    "mistral-v3-tekken": "mistral-v7",
    "mistral-v7-tekken": "mistral-v7",
    "mistral-v13": "mistral",
    "nemotron-3": "qwen-xml",
    "phi": "plain",
    "phi-4": "phi-4-mini",
    "qwen2.5": "hermes",
    "qwen3": "hermes",
    "qwen3-coder": "qwen-xml",
    "qwen3.5": "qwen-xml",
    "smollm3": "hermes",
    "step-3.5": "qwen-xml",
}
# Where the templates of a family differ.
FORMAT_OF_FILE = {
    "devstral-small-2-2512-unsloth-modified.jinja": "mistral-v7",  # it writes a list, whatever the tokenizer's version
    "gemma-3-pythonic-vllm.jinja": "pythonic",
    "granite-3.3.jinja": "granite-3",
    "granite-4.0.jinja": "hermes",
    "granite-4.1.jinja": "hermes",
    "llama-3-instruct.jinja": "plain",
    "qwen2.5-vl.jinja": "plain",
}
# Their tool_format may name one, but these templates don't render the tools.
WITHOUT_TOOLS = {
    "codellama-instruct.jinja",
    "deepseek-r1-distill.jinja",
    "deepseek-v3.1.jinja",
    "deepseek-v3.jinja",
    "gemma-2-it.jinja",
    "gemma-3-it.jinja",
    "llama-3-instruct.jinja",
    "phi-3.5-mini.jinja",
    "qwen2.5-vl.jinja",
    "smollm3.jinja",
}


@needs_assets
@pytest.mark.parametrize("row", INDEX, ids=lambda row: row["file"])
def test_every_template_tells_its_format(row: dict[str, str]) -> None:
    family = row["family"]
    expected = FORMAT_OF_FILE.get(row["file"], FORMAT_OF_FAMILY.get(family, family))
    template = (TEMPLATES / row["file"]).read_text("utf-8")
    assert detect(template).name == expected
    assert takes_tools(template) is (row["file"] not in WITHOUT_TOOLS)


@needs_assets
def test_all_templates_are_there() -> None:
    assert len(INDEX) == 77


def test_a_name_overrides_the_template() -> None:
    assert detect("<tool_call></tool_call>", name="mistral").name == "mistral"


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidRequestError, match=r"no tool format 'x'.*hermes"):
        detect(None, name="x")


def test_special_tokens_count_only_without_a_template() -> None:
    tokens = ["<s>", "[INST]", "[TOOL_CALLS]", "[ARGS]"]
    assert detect(None, tokens).name == "mistral"
    assert detect("{{ messages }}", tokens).name == "plain"
    assert detect(None).name == "plain"
    assert not takes_tools(None)


def test_a_template_that_only_thinks() -> None:
    assert detect("{{ '<think>' }}").name == "thinking"


def test_comments_tell_nothing() -> None:
    assert detect("{# [TOOL_CALLS] tools #}").name == "plain"
    assert not takes_tools("{# tools #}")
