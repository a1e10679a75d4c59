"""All golden cases: fed whole, by characters, and split at random."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.chat import golden
from tests.chat.golden import DISPUTED, assemble, differences, machine_for, needs_assets, run
from tests.chat.lost import lost_words

CASES = golden.load("cases.jsonl")
POLICY = golden.load("policy.jsonl")

pytestmark = needs_assets


def _name(case: dict[str, Any]) -> str:
    return str(case["id"])


@pytest.mark.parametrize("case", CASES, ids=_name)
def test_a_golden_case_means_what_it_says(case: dict[str, Any]) -> None:
    answer = assemble(run(machine_for(case), [case["text"]]))
    found = differences(case, answer)
    if case["id"] in DISPUTED:
        assert found, "no longer disputed: strike it from the table"
    else:
        assert not found


@pytest.mark.parametrize("case", CASES + POLICY, ids=_name)
def test_no_splitting_of_the_text_changes_the_deltas(case: dict[str, Any]) -> None:
    text = case["text"]
    whole = run(machine_for(case), [text])
    assert run(machine_for(case), text) == whole
    rng = random.Random(case["id"])
    for _ in range(4):
        cuts = sorted(rng.randrange(len(text) + 1) for _ in range(rng.randrange(1, 9)))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert run(machine_for(case), pieces) == whole


@pytest.mark.parametrize("case", CASES + POLICY, ids=_name)
def test_no_text_is_lost(case: dict[str, Any]) -> None:
    answer = assemble(run(machine_for(case), [case["text"]]))
    assert not lost_words(golden.format_of(case), case["text"], answer)


def test_the_collection_is_complete() -> None:
    assert (len(CASES), len(POLICY)) == (785, 330)
    assert DISPUTED.keys() <= {case["id"] for case in CASES}
