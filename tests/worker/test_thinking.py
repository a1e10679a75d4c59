from __future__ import annotations

from mlx_server_nano.types import ThinkingBudget
from mlx_server_nano.worker.thinking import ThinkingLimit

CLOSING = [7, 8, 9]


def limit(tokens: int, *, inside: bool) -> ThinkingLimit:
    return ThinkingLimit(ThinkingBudget(tokens=tokens, open="<think>", close="</think>"), CLOSING, inside=inside)


def forced_after(thinking: ThinkingLimit, *texts: str) -> list[int | None]:
    """What is forced before each token, and after the last."""
    forced = [thinking.forced]
    for text in texts:
        thinking.advance(text)
        forced.append(thinking.forced)
    return forced


def test_the_end_is_forced_once_the_budget_is_spent():
    thinking = limit(2, inside=True)
    assert forced_after(thinking, "a", "b", "\n", "</think>", "\n\n") == [None, None, 7, 8, 9, None]
    assert not thinking.active
    assert forced_after(thinking, "<think>", "x", "y", "z") == [None] * 5, "the answer is free"


def test_a_model_that_ends_by_itself_is_left_alone():
    thinking = limit(5, inside=True)
    assert forced_after(thinking, "a", "</th", "ink>", "b", "c", "d", "e", "f") == [None] * 9
    assert not thinking.active


def test_the_models_own_opening_starts_the_count():
    thinking = limit(1, inside=False)
    assert forced_after(thinking, "\n", "<th", "ink>", "a", "b") == [None, None, None, None, 7, 8]


def test_an_answer_without_reasoning_is_free():
    thinking = limit(0, inside=False)
    assert forced_after(thinking, "Hello", " <think>", "x") == [None] * 4
    assert not thinking.active


def test_no_reasoning_at_all():
    assert limit(0, inside=True).forced == 7
    assert forced_after(limit(0, inside=False), "<think>") == [None, 7]


def test_choices_count_apart():
    first = limit(1, inside=True)
    second = first.fork()
    first.advance("a")
    assert (first.forced, second.forced) == (7, None)


def test_nothing_is_forced_into_a_character():
    thinking = limit(1, inside=True)
    thinking.advance("", whole=False)
    assert thinking.forced is None
    thinking.advance("", whole=False)
    assert thinking.forced is None
    thinking.advance("ö")
    assert thinking.forced == 7


def test_how_much_can_be_drafted():
    thinking = limit(3, inside=False)
    assert thinking.free == 0, "it may open its reasoning"
    thinking.advance("<think>")
    assert thinking.free == 2
    thinking.advance("a")
    assert thinking.free == 1
    thinking.advance("b")
    thinking.advance("c")
    assert (thinking.forced, thinking.free) == (7, 0)
    for text in ("\n", "</think>", "\n\n"):
        thinking.advance(text)
    assert thinking.free > 1000
