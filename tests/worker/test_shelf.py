"""The folder of the disk tier: what is found, what goes, what is bounded."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_server_nano.worker.kvfile import Content, Tensor, Writer
from mlx_server_nano.worker.shelf import DAILY, Kept, Shelf, _covered

MODEL, OTHER = "a" * 64, "b" * 64


def tokens(count: int, *, tail: int = 0) -> np.ndarray:
    return np.array([*range(1, count - tail + 1), *([7777] * tail)], np.int32)


def write(folder: Path, ids: np.ndarray, *, model: str = MODEL, size: int = 100, claims: str | None = None) -> Path:
    (folder / model).mkdir(exist_ok=True)
    writer = Writer(folder / model, Content(claims or model, ids, "[]", (Tensor("U8", (size,), size),)))
    writer.add(bytes(size))
    writer.commit()
    return writer.path


def shelf(folder: Path, *, cut: bool = True, limit: int = 1 << 20, now: float = 1e9) -> Shelf:
    return Shelf(folder, MODEL, limit, cut=cut, clock=lambda: now)


def length(found) -> int | None:
    return found and found[1]


@pytest.mark.parametrize(("cut", "expected"), [(True, {25: 20, 9: 9, 2: 2}), (False, {25: 10, 9: None, 2: None})])
def test_the_longest_shared_prefix_is_found(tmp_path, cut, expected):
    for count, tail in ((10, 0), (30, 10), (12, 6)):
        write(tmp_path, tokens(count, tail=tail))
    mine = shelf(tmp_path, cut=cut)
    assert {count: length(mine.find(tokens(count), beyond=0)) for count in expected} == expected
    assert mine.find(tokens(25), beyond=20) is None


def test_a_long_file_is_not_read_for_a_little_of_it(tmp_path):
    write(tmp_path, tokens(100))
    assert shelf(tmp_path).find(tokens(10), beyond=0) is None
    assert length(shelf(tmp_path).find(tokens(13), beyond=0)) == 13


def test_files_that_come_and_go_are_noticed(tmp_path):
    mine = shelf(tmp_path)
    assert mine.find(tokens(10), beyond=0) is None
    path = write(tmp_path, tokens(8))
    assert length(mine.find(tokens(10), beyond=0)) == 8
    assert mine.holds(tokens(8)) and mine.holds(tokens(5)) and not mine.holds(tokens(9))
    path.unlink()
    assert mine.find(tokens(10), beyond=0) is None
    assert not mine.holds(tokens(8))


@pytest.mark.parametrize("cut", [True, False])
def test_a_longer_file_replaces_shorter_ones_where_it_can_serve_for_them(tmp_path, cut):
    paths = [write(tmp_path, ids) for ids in (tokens(5), tokens(10), tokens(8, tail=2), tokens(10))]
    shelf(tmp_path, cut=cut)
    left = [path for path in paths if path.exists()]
    assert len(left) == (2 if cut else 4)
    assert paths[2] in left


@given(st.lists(st.lists(st.sampled_from([1, 255, 256, 70000]), min_size=1, max_size=5), max_size=12))
def test_what_others_begin_with_goes_and_nothing_else(runs: list[list[int]]):
    files = [Kept(Path(str(i)), np.array(run, np.int32), 1) for i, run in enumerate(runs)]
    gone = {int(kept.path.name) for kept in _covered(files)}
    left = [run for i, run in enumerate(runs) if i not in gone]
    for run in runs:
        assert sum(other[: len(run)] == run for other in left) >= 1, "every run is still served"
    for i, run in enumerate(left):
        assert not any(other[: len(run)] == run for j, other in enumerate(left) if j != i), "none is of no use"


def test_foreign_and_damaged_files_are_removed_and_others_left_alone(tmp_path, caplog):
    good, foreign, damaged = (write(tmp_path, tokens(5, tail=i), claims=OTHER if i == 1 else None) for i in range(3))
    damaged.write_bytes(b"nonsense")
    others = [tmp_path / "notes.kv", tmp_path / MODEL / "notes.txt", tmp_path / "folder" / "notes.kv"]
    others[2].parent.mkdir()
    for path in others:
        path.write_text("mine")
    mine = shelf(tmp_path, limit=1)
    assert good.exists() and not foreign.exists() and not damaged.exists()
    assert caplog.text.count("removed") == 2
    mine.make_room(1)
    assert not good.exists()
    assert all(path.exists() for path in others)


def test_the_least_recently_used_of_all_models_go(tmp_path):
    paths = [write(tmp_path, tokens(5 + i, tail=i), model=MODEL if i % 2 else OTHER, size=1000) for i in range(4)]
    for i, path in enumerate(paths):
        os.utime(path, (i, i))
    mine = shelf(tmp_path, limit=3 * paths[0].stat().st_size + 100, now=100)
    mine.used(paths[0])
    mine.make_room(paths[0].stat().st_size)
    assert [path.exists() for path in paths] == [True, False, False, True]


def test_what_is_written_a_day_is_bounded(tmp_path):
    first = shelf(tmp_path, limit=100, now=1e9)
    assert first.allows(100) and not first.allows(101)
    for _ in range(DAILY):
        assert first.allows(100)
        first.count(100)
    assert not shelf(tmp_path, limit=100, now=1e9).allows(1)
    assert shelf(tmp_path, limit=100, now=1e9 + 86400).allows(100)
    (tmp_path / "written.json").write_text("{")
    assert first.allows(100)


def test_unfinished_files_are_removed_when_they_are_old(tmp_path):
    now = 1e9
    mine = shelf(tmp_path, now=now)
    old, new = (tmp_path / MODEL / f"{name}.part" for name in ("old", "new"))
    for path, age in ((old, 7200), (new, 10)):
        path.touch()
        os.utime(path, (now - age, now - age))
    mine.make_room(1)
    assert not old.exists() and new.exists()
    assert mine.find(tokens(5), beyond=0) is None
