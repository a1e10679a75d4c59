"""Answers of a given length, after which the model must stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from training.data.checks import Check, Exactly
from training.data.conversation import Conversation, Skill
from training.data.skills.turns import conversation
from training.data.source import Source

Part = tuple[str, str, str]  # user's words, answer, thought

SAYING: Final = (
    "[|Please |Just |Only |Now ][say|write|answer|reply|print|output] [|only |just |exactly |nothing but "
    "][the word |]{text}[|.| and nothing else| and stop]",
    '[|Please |Just |Only ][say|write|answer|reply|print] [|only |just |exactly ]"{text}"[|.| and nothing else| and then stop]',
    "[Answer with|Reply with|Respond with] [|only |just |exactly ][one word|this]: {text}[|.|!]",
)
TIMES: Final = (
    '[|Please |Now |Can you ][say|write|repeat|print] ["{text}"|the word {text}|{text}] {count} times[|.'
    "| and stop|, please| in a row]",
    "{count} times [the word |]{text}[, please|!|.|]",
)
COUNTING: Final = (
    "[|Please |Now |Can you ][count|count up|list the numbers|write the numbers|say the numbers] from "
    "{low} to {high}[|.| and stop|, please]",
    "[Numbers|All numbers|The numbers|Count][:|] {low} to {high}[|, please|.]",
)
DOWN: Final = (
    "[|Please |Now |Can you ]count [down|backwards|back] from {high} to {low}[|.| and stop|, please]",
    "[Countdown|A countdown|Backwards][:|] [from |]{high} to {low}[|, please|.]",
)


def _say(source: Source) -> Part:
    text = source.choice((source.word(), source.name(), source.phrase(1, 4)))
    return source.wording(SAYING, text=text), text, "Only that."


def _times(source: Source) -> Part:
    text, count = source.choice((source.word(), source.name())), source.integer(2, 7)
    spoken = ("", "", "two", "three", "four", "five", "six", "seven")[count] if source.chance(0.6) else str(count)
    return source.wording(TIMES, text=text, count=spoken), " ".join([text] * count), f"{count} times."


def _count(source: Source) -> Part:
    low = source.integer(0, 60)
    high = low + source.integer(2, 12)
    if source.chance(0.1):
        low, high = 1, source.integer(20, 100)
    numbers = ", ".join(map(str, range(low, high + 1)))
    return source.wording(COUNTING, low=low, high=high), numbers, f"From {low}, stop at {high}."


def _down(source: Source) -> Part:
    low = source.integer(0, 20)
    high = low + source.integer(2, 10)
    numbers = ", ".join(map(str, range(high, low - 1, -1)))
    return source.wording(DOWN, low=low, high=high), numbers, f"From {high}, stop at {low}."


KINDS: Final[tuple[Callable[[Source], Part], ...]] = (_say, _say, _times, _count, _down)


def draw(source: Source) -> Conversation:
    text, answer, thought = source.choice(KINDS)(source)
    check: Check = Exactly((answer,))
    return conversation(source, Skill.STOPPING, text[0].upper() + text[1:], answer, check, thought)
