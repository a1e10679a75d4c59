"""How answers are taken apart and judged."""

from __future__ import annotations

import re

import pytest
from training.data.checks import Call, CallsEqual, Exactly, JsonEquals, Members, Says, parse, same

CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'


def test_parts_of_a_completion():
    answer = parse(f"<think>\nHm.\n</think>\n\n{CALL}\n{CALL}<|im_end|>")
    assert (answer.reasoning, answer.content, answer.ended) == ("Hm.", "", True)
    assert answer.calls == (Call("f", {"a": 1}),) * 2


@pytest.mark.parametrize(
    "broken",
    [CALL.replace("1}", "1"), "<tool_call>\n[]\n</tool_call>", "<tool_call>\n{}\n</tool_call>", CALL[:-3]],
)
def test_broken_calls_are_no_calls(broken):
    answer = parse(broken + "<|im_end|>")
    assert answer.calls is None
    assert not CallsEqual(()).passes(answer) and not Says(()).passes(answer)


def test_an_answer_that_was_cut_off_has_not_ended():
    assert not parse("Hello").ended


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [(1, 1.0, True), (1, True, False), ([1, {"a": None}], [1, {"a": None}], True), ({"a": 1}, {"a": 1, "b": 2}, False),
     ("1", 1, False), ([1], [1, 1], False)],
)  # fmt: skip
def test_deep_equality(left, right, equal):
    assert same(left, right) is equal


def test_calls_count_in_any_order_and_each_once():
    one, two = Call("f", {"a": 1}), Call("g", {})
    both = parse(f'{CALL}\n<tool_call>\n{{"name": "g", "arguments": {{}}}}\n</tool_call>')
    assert CallsEqual((two, one)).passes(both)
    assert not CallsEqual((one, one)).passes(both)
    assert not CallsEqual((one,)).passes(both)


def test_text_checks():
    answer = parse("The price is 12.<|im_end|>")
    assert Says(("price", "12")).passes(answer) and not Says(("13",)).passes(answer)
    assert not Says(("price",), banned=("12",)).passes(answer)
    assert Exactly(("The price is 12.",)).passes(answer) and not Exactly(("The price is 12",)).passes(answer)


def test_json_must_stand_alone():
    assert JsonEquals({"a": [1, None]}).passes(parse('{"a": [1, null]}'))
    assert not JsonEquals({"a": 1}).passes(parse('Here: {"a": 1}'))


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("- red\n- Blue", True),
        ("- red\n- red", False),
        ("- red", False),
        ("- red\n- cat", False),
        ("red\n- blue", False),
    ],
)
def test_members_of_a_category(text, good):
    assert Members(frozenset({"red", "blue", "green"}), 2, re.compile(r"- (.+)")).passes(parse(text)) is good
