"""Files of KV caches: they come back whole, or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors import safe_open

from mlx_server_nano.worker import kvfile
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
    for tensor in (DATA[:24], DATA[24:]):
        for start in range(0, len(tensor), kvfile.PART):
            writer.add(tensor[start : start + kvfile.PART].data)
    writer.commit()
    return writer.path


@pytest.fixture(params=[kvfile.PART, 7], autouse=True)
def part(request, monkeypatch):
    monkeypatch.setattr(kvfile, "PART", request.param)


def test_what_is_written_is_read(tmp_path):
    path = write(tmp_path)
    for content in (peek(path), read(path)[0]):
        assert (content.model, content.layout, content.tensors) == (CONTENT.model, CONTENT.layout, CONTENT.tensors)
        assert content.tokens.tolist() == CONTENT.tokens.tolist()
    arrays: Any = read(path)[1]
    assert [(array.shape, array.dtype) for array in arrays] == [
        ((2, 3), mx.float32),
        ((0,), mx.uint8),
        ((4,), mx.bfloat16),
    ]
    assert b"".join(bytes(memoryview(array.view(mx.uint8))) for array in arrays if array.nbytes) == bytes(DATA)
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


@pytest.mark.parametrize("left", [0, 100, -1])
def test_a_file_that_is_cut_while_it_is_read_spoils_nothing_else(tmp_path, monkeypatch, left):
    path, other = write(tmp_path), write(tmp_path)
    load = mx.load

    def cut(name, **options):
        arrays = load(name, **options)
        os.truncate(path, left if left >= 0 else path.stat().st_size + left)
        return arrays

    monkeypatch.setattr(mx, "load", cut)
    with pytest.raises((DamagedFileError, RuntimeError)):
        read(path)
    monkeypatch.setattr(mx, "load", load)
    assert [array.tolist() for array in read(other)[1]][1] == []


def test_a_file_that_goes_while_it_is_read_is_a_damaged_one(tmp_path, monkeypatch):
    path = write(tmp_path)
    begin = kvfile._begin

    def gone(file):
        path.unlink()
        return begin(file)

    monkeypatch.setattr(kvfile, "_begin", gone)
    with pytest.raises(DamagedFileError):
        read(path)
