"""Filling in the middle: the markers as real tokenizers know them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from mlx_server_nano.api.completions_infill import infill_for
from tests.tiny_models import copy_tokenizer


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("qwen3", ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]),
        ("mistral-tekken-v7-devstral-small-2505", ["[SUFFIX]", "[PREFIX]"]),
    ],
)
def test_markers_become_single_tokens(tmp_path: Path, name: str, order: list[str]) -> None:
    copy_tokenizer(tmp_path, name)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    vocabulary = tokenizer.get_vocab()
    infill = infill_for(vocabulary)
    assert infill is not None
    ids = tokenizer.encode(infill.prompt("def f(", "): pass"), add_special_tokens=False).ids
    markers = {vocabulary[marker] for marker in order}
    assert [i for i in ids if i in markers] == [vocabulary[marker] for marker in order]
    assert "def" in tokenizer.decode(ids)


def test_models_without() -> None:
    assert infill_for({"<|im_start|>": 1, "<|fim_prefix|>": 2}) is None
