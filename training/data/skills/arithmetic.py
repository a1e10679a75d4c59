"""Sums of two numbers, bare and in short stories, with the working in the thinking block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from training.data.checks import Says
from training.data.conversation import Conversation, Skill
from training.data.skills import sums
from training.data.skills.turns import casual, conversation
from training.data.source import Source

Sum = tuple[int, str, int, int, str]  # left, sign, right, result, working

BARE: Final = (
    "[What is|What's|How much is|Calculate|Compute|Work out|Please compute|Can you calculate|Tell me|Solve|I need]"
    " {left} {sign} {right}[|?|.| please| for me]",
    "{left} {sign} {right}[|?| =| = ?|, please| is what?| equals?| makes?]",
)
SPOKEN: Final = {
    "+": (
        "[What is|Calculate|How much is] [the sum of |]{left} [plus|and] {right} [|together|in total]?",
        "[Add|Please add|Can you add|Sum up] {left} [and|to] {right}[|.| please| for me]",
    ),
    "-": (
        "[What is|Calculate|How much is] {left} [minus|less|take away] {right}[?|.| please?]",
        "[Subtract|Take|Please subtract|Take away] {right} from {left}[|.| please| for me]",
    ),
    "*": (
        "[What is|Calculate|How much is] {left} [times|multiplied by] {right}[?|.| please?]",
        "[Multiply|Please multiply|Can you multiply] {left} [by|with] {right}[|.| please| for me]",
    ),
    "/": (
        "[What is|Calculate|How much is] {left} [divided by|over] {right}[?|.| please?]",
        "[Divide|Please divide|Can you divide] {left} by {right}[|.| please| for me]",
    ),
}
STORIES: Final = {
    "+": (
        "{name} has {left} {things} and [gets|buys|finds|is given] {right} more. How many {things} [has "
        "{name} now|are there now]?",
        "[There are|We have|They keep] {left} {things} in {place} and {right} in {other}. How many {things} "
        "[in total|altogether|are that]?",
    ),
    "-": (
        "{name} has {left} {things} and [sells|loses|gives away|breaks] {right}[| of them]. How many {things} [are left|remain]?",
        "[Of|Out of] {left} {things} in {place}, {right} are [gone|sold|broken]. How many {things} [are left"
        "|remain|are still there]?",
    ),
    "*": (
        "[One|Each|A single] box holds {left} {things}. How many {things} are in {right} boxes?",
        "{name} [buys|packs|sells] {right} {things} a day for {left} days. How many {things} [in total|is that|are that]?",
    ),
    "/": (
        "{name} [shares|splits|divides] {left} {things} [equally |evenly |]among {right} people. How many "
        "{things} does each [get|receive]?",
        "{left} {things} [are packed|go|fit] into {right} equal boxes. How many {things} are in [each|one] box?",
    ),
}
ANSWERS: Final = ("{left} {sign} {right} = {result}",)


def _number(source: Source, digits: int) -> int:
    length = source.integer(1, digits)
    return source.integer(1 if length == 1 else 10 ** (length - 1), 10**length - 1)


def _add(source: Source) -> Sum:
    left, right = _number(source, 4), _number(source, 4)
    return left, "+", right, left + right, sums.add(left, right)


def _subtract(source: Source) -> Sum:
    right, left = sorted((_number(source, 4), _number(source, 4)))
    return left, "-", right, left - right, sums.subtract(left, right)


def _multiply(source: Source) -> Sum:
    left, right = (
        (_number(source, 4), _number(source, 1)) if source.chance(0.7) else (_number(source, 2), _number(source, 2))
    )
    if source.chance(0.3):
        left, right = right, left
    return left, "*", right, left * right, sums.multiply(left, right)


def _divide(source: Source) -> Sum:
    right, result = source.integer(2, 9), _number(source, 3)
    return right * result, "/", right, result, sums.divide(right * result, right)


KINDS: Final[tuple[Callable[[Source], Sum], ...]] = (_add, _subtract, _multiply, _divide)


def _key(task: Sum) -> str:
    """Names the exercise; commuted ones are one exercise."""
    left, right = sorted(task[:3:2]) if task[1] in "+*" else task[:3:2]
    return f"{left} {['plus', 'minus', 'times', 'over']['+-*/'.index(task[1])]} {right}"


def draw(source: Source) -> Conversation:
    kind = source.choice(KINDS)
    thinking = source.chance(0.85)
    small = 10**9 if thinking else 100
    task = source.until(lambda: kind(source), lambda t: source.ours(_key(t)) and max(t[0], t[3]) < small)
    left, sign, right, result, working = task
    roll = source.random.random()
    if roll < 0.4:
        text = source.wording(BARE, left=left, sign=source.choice("x*×") if sign == "*" else sign, right=right)
    elif roll < 0.7:
        text = source.wording(SPOKEN[sign], left=left, right=right)
    else:
        name, place, other = source.name(), source.place(), source.place()
        text = source.wording(
            STORIES[sign], left=left, right=right, name=name, place=place, other=other, things=source.thing() + "s"
        )
    answer = source.reply(ANSWERS, left=left, sign=sign, right=right, result=result)
    check = Says((f"= {result}",)) if f"= {result}" in answer else Says((str(result),))
    return conversation(source, Skill.ARITHMETIC, casual(source, text), answer, check, working, thinking=thinking)
