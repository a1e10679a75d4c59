"""The commands' own small parts."""

from __future__ import annotations

import sys

import pytest
from training.all import command
from training.data import __main__ as data
from training.data import shards

from training import tokenizer


@pytest.mark.parametrize(("text", "number"), [("12", 12), ("3k", 3000), ("1.5M", 1_500_000), ("2G", 2 * 10**9)])
def test_counts(text, number):
    assert data.count(text) == number


def test_a_step_leaves_out_what_is_not_given():
    line = command("train", stop_after=None, minutes=3.0)
    assert line == [sys.executable, "-m", "training.train", "--minutes", "3.0"]


def test_shards_are_made_once_and_follow_one_another(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "CONVERSATIONS", 5)
    tokenizer.save(tokenizer.train(tokenizer.texts(30), size=600), tmp_path, 4096)
    made = [data.shard(number, tokenizer=tmp_path, out=tmp_path, seed=1) for number in (0, 1, 1)]
    assert made[0] > 0 and made[1] > 0 and made[2] == 0
    first, second = (shards.read(tmp_path / f"0000{number}.npz") for number in (0, 1))
    assert len(first) == len(second) == 5
    assert not {s.tokens.tobytes() for s in first} & {s.tokens.tobytes() for s in second}
