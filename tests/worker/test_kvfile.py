"""Files of KV caches: they come back whole, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from mlx_server_nano.worker.kvfile import Content, DamagedFileError, Tensor, Writer, peek, read

CONTENT = Content(
    "f" * 64,
    np.arange(5, dtype=np.int32),
    '[{"array": 0}]',
    (Tensor("F32", (2, 3), 24), Tensor("U8", (0,), 0), Tensor("BF16", (4,), 8)),
)
DATA = np.arange(32, dtype=np.uint8)


def write(folder: Path) -> Path:
    writer = Writer(folder, CONTENT)
    writer.add(DATA[:7].data)
    writer.add(DATA[7:].data)
    writer.commit()
    return writer.path


def test_what_is_written_is_read(tmp_path):
    path = write(tmp_path)
    for content in (peek(path), read(path)[0]):
        assert (content.model, content.layout, content.tensors) == (CONTENT.model, CONTENT.layout, CONTENT.tensors)
        assert content.tokens.tolist() == CONTENT.tokens.tolist()
    assert b"".join(map(bytes, read(path)[1])) == bytes(DATA)
    assert path.stat().st_mode & 0o077 == 0


def test_the_format_is_safetensors(tmp_path):
    path = write(tmp_path)
    with safe_open(path, framework="numpy") as file:
        assert file.metadata()["model"] == CONTENT.model
        assert file.get_tensor("tokens").tolist() == [0, 1, 2, 3, 4]
        assert file.get_tensor("0").shape == (2, 3)


def test_nothing_is_visible_before_the_end(tmp_path):
    writer = Writer(tmp_path, CONTENT)
    writer.add(DATA[:7].data)
    assert not list(tmp_path.glob("*.kv"))
    writer.abort()
    assert not list(tmp_path.iterdir())


def test_any_damaged_byte_is_noticed(tmp_path):
    path = write(tmp_path)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(DamagedFileError):
            read(path)


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"\xff" * 100, b"\x02\0\0\0\0\0\0\0{}", b"hello, this is a text"])
def test_other_files_are_damaged_ones(tmp_path, content):
    path = tmp_path / "x.kv"
    path.write_bytes(content)
    with pytest.raises(DamagedFileError):
        peek(path)
    with pytest.raises(DamagedFileError):
        read(path)


def test_a_file_that_ends_early_or_late_is_damaged(tmp_path):
    path = write(tmp_path)
    whole = path.read_bytes()
    for cut in (whole[:-1], whole[: len(whole) // 2], whole + b"x"):
        path.write_bytes(cut)
        with pytest.raises(DamagedFileError):
            peek(path)
