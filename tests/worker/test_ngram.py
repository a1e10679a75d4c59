"""Prompt look-up, held against a search through everything."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_server_nano.worker.ngram import Lookup, PromptIndex


def lookup(prompt: list[int], output: list[int]) -> Lookup:
    """As it is when the row has said this."""
    mine: list[int] = []
    found = Lookup(PromptIndex(prompt), mine)
    for token in output:
        mine.append(token)
        found.catch_up()
    return found


@pytest.mark.parametrize(
    ("prompt", "output", "expected"),
    [
        ([1, 2, 3, 4, 5, 6, 9, 1, 2, 3], [], [4, 5, 6, 9, 1, 2]),
        ([1, 2, 3, 4, 5, 6], [9, 2, 3, 4], [5, 6, 9, 2, 3, 4]),
        ([7], [1, 2, 3, 8, 9, 1, 2, 3], [8, 9, 1, 2, 3, 8]),
        ([5, 5, 5, 5, 5], [], [5, 5, 5, 5, 5, 5]),
        ([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3], [], [5, 1, 2, 3, 5, 1]),
        ([1, 2, 3, 4, 5], [1, 2], []),
        ([1], [2], []),
        ([1, 2, 3], [1, 2, 3], [1, 2, 3, 1, 2, 3]),
    ],
    ids=["prompt", "prompt-and-output", "output", "run", "latest", "two-only", "short", "over-and-over"],
)
def test_drafts(prompt: list[int], output: list[int], expected: list[int]):
    found = lookup(prompt, output)
    assert found.draft(6) == expected
    assert found.ready == bool(expected)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.lists(st.integers(0, 3), max_size=60))
def test_what_is_drafted_followed_on_the_same_three_tokens(prompt: list[int], output: list[int]):
    """The first drafted token at least: a draft that comes true goes on where it did, whatever else followed the same."""
    tokens = prompt + output
    followed = {tokens[end] for end in range(3, len(tokens)) if tokens[end - 3 : end] == tokens[-3:]}
    draft = lookup(prompt, output).draft(5)
    assert draft[0] in followed if draft else not followed


@given(st.lists(st.integers(0, 2), min_size=1, max_size=30), st.lists(st.integers(0, 2), max_size=40), st.data())
def test_catching_up_late_changes_nothing(prompt: list[int], output: list[int], data: st.DataObject):
    mine: list[int] = []
    late = Lookup(PromptIndex(prompt), mine)
    for token in output:
        mine.append(token)
        if data.draw(st.booleans()):
            late.catch_up()
    late.catch_up()
    prompt_lookup = lookup(prompt, output)
    assert late.draft(9) == prompt_lookup.draft(9)
    assert late.confidence == prompt_lookup.confidence


def test_confidence_follows_what_came_true():
    rng = random.Random(0)
    prompt = [rng.randrange(1000) for _ in range(300)]
    copied = lookup(prompt, prompt[50:120])
    assert copied.confidence > 0.95
    # Every third token another one: three equal tokens never lead further.
    tricked = []
    for at in range(0, 200, 4):
        tricked += [*prompt[at : at + 3], 1000 + at]
    assert lookup(prompt, tricked).confidence < 0.05


def test_choices_share_the_prompts_index():
    index = PromptIndex([1, 2, 3, 4, 1, 2, 3])
    assert Lookup(index, []).draft(1) == Lookup(index, []).draft(1) == [4]
