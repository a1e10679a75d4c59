"""Files that no model should have: each is refused in words, whatever it holds."""

from __future__ import annotations

import json

import pytest

from mlx_server_nano.errors import UnsupportedModelError
from mlx_server_nano.models.folder import check_config, weight_files

NESTED = b"[" * 100_000


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (NESTED, "not JSON"),
        (b"[]", "model_type"),
        (b"null", "model_type"),
        (b'{"model_type": 3}', "model_type"),
    ],
)
def test_a_damaged_configuration(text: bytes, says: str) -> None:
    with pytest.raises(UnsupportedModelError, match=says):
        check_config(text, "a/b", frozenset(), trust_remote_code=False)


@pytest.mark.parametrize("index", [b"", b"{", b"\xff", b"[]", b"{}", b'{"weight_map": 3}', NESTED])
def test_a_damaged_index_counts_as_none(index: bytes) -> None:
    names = ["model-00001-of-00002.safetensors", "config.json"]
    assert weight_files(names, index) == weight_files(names, None)
    assert len(weight_files(names, None)) == 2


def test_an_index_is_believed() -> None:
    assert weight_files([], json.dumps({"weight_map": {"a": "x", "b": "y"}}).encode()) == {"x", "y"}
