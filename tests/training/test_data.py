"""The generated conversations: deterministic, disjoint from evaluation, and each one's answer accepted by its own check."""

from __future__ import annotations

from itertools import islice

import pytest
from training.data.checks import CallsEqual, parse
from training.data.conversation import Conversation, Skill
from training.data.mix import DRAW, SHARES, conversation, held_out
from training.data.source import Source, Split, side
from training.render import split_last

TRAINED = 800


def rendered(drawn: Conversation) -> tuple[str, str]:
    return split_last(drawn.messages, drawn.tools, drawn.thinking)


def asked(drawn: Conversation) -> str:
    return next(message["content"] for message in reversed(drawn.messages) if message["role"] == "user")


def tool_names(drawn: Conversation) -> set[str]:
    return {tool["function"]["name"] for tool in drawn.tools}


@pytest.fixture(scope="module")
def trained() -> list[Conversation]:
    return [conversation(1, number) for number in range(TRAINED)]


@pytest.fixture(scope="module")
def unseen() -> list[Conversation]:
    return [drawn for skill in Skill for drawn in held_out(skill, 30)]


def test_every_skill_has_a_share_and_a_generator():
    assert set(SHARES) == set(DRAW) == set(Skill)


def test_the_same_seed_and_number_give_the_same_conversation(trained):
    assert [conversation(1, number) for number in range(100)] == trained[:100]
    assert [conversation(2, number) for number in range(100)] != trained[:100]


def test_every_answer_passes_its_own_check(trained, unseen):
    for drawn in (*trained, *unseen):
        answer = parse(rendered(drawn)[1])
        assert answer.ended and drawn.check.passes(answer), rendered(drawn)
        assert bool(answer.reasoning) == drawn.thinking


def test_every_tool_call_parses_back_to_the_call_that_was_meant(trained):
    calling = [drawn for drawn in trained if isinstance(drawn.check, CallsEqual)]
    assert len(calling) > TRAINED // 5
    for drawn in calling:
        assert isinstance(drawn.check, CallsEqual)
        answer = parse(rendered(drawn)[1])
        assert answer.calls == drawn.check.calls and answer.content == ""
        by_name = {tool["function"]["name"]: tool["function"] for tool in drawn.tools}
        for call in answer.calls:
            schema = by_name[call.name].get("parameters", {})
            assert set(schema.get("required", ())) <= set(call.arguments) <= set(schema.get("properties", {}))


def test_no_tool_of_the_evaluation_is_trained(trained, unseen):
    seen = {name.lower() for drawn in trained for name in tool_names(drawn)}
    new = {name.lower() for drawn in unseen for name in tool_names(drawn)}
    assert len(new) > 250 and not seen & new


def test_no_prompt_of_the_evaluation_is_trained(trained, unseen):
    new = {asked(drawn) for drawn in unseen}
    assert not new & {asked(drawn) for drawn in trained}


def test_the_sides_share_no_name_place_or_wording():
    drawn = {split: Source("names", split) for split in Split}
    for draw in (Source.name, Source.place, Source.word):
        train, held = ({draw(source) for _ in range(1500)} for source in drawn.values())
        words = [{word for name in names for word in name.lower().split()} for names in (train, held)]
        assert len(held) > 100
        assert {side(word) for word in words[1]} >= {Split.HELD_OUT}
        assert not {w for w in words[0] if len(w) > 5} & {w for w in words[1] if len(w) > 5}
    patterns = ["[a|b|c|d|e|f] [g|h|i|j] [k|l|m|n]{v}"]
    train, held = ({source.wording(patterns, v="") for _ in range(2000)} for source in drawn.values())
    assert held and not train & held and len(train | held) == 96


def test_near_copies_are_on_one_side():
    assert len({side(text) for text in ("get_zarbo Level", "get zarbo level?", "Get-Zarbo-Level")}) == 1


@pytest.mark.parametrize("skill", list(Skill))
def test_held_out_prompts_differ_and_last(skill):
    drawn = list(islice(held_out(skill, 30), 30))
    assert all(each.skill is skill for each in drawn)
    assert len({rendered(each)[0] for each in drawn}) == 30


def test_a_list_too_short_for_both_sides_is_an_error():
    text = next(word for word in ("a", "b", "c", "d", "e") if side(word) is Split.TRAIN)
    with pytest.raises(LookupError):
        Source("short", Split.HELD_OUT).wording([text])
