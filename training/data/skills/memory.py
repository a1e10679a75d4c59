"""What the user said turns ago: about themselves, plans, codes; the newest statement wins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from training.data import words
from training.data.checks import Says
from training.data.conversation import Conversation, Skill, assistant, user
from training.data.skills import small_talk
from training.data.skills.turns import casual, conversation, idle_system
from training.data.source import Source
from training.render import Message


@dataclass(frozen=True, slots=True)
class Item:
    """Something a user tells and asks for later. `{w}` is a made-up word that names it where needed."""

    tells: tuple[str, ...]
    changes: tuple[str, ...]
    asks: tuple[str, ...]
    answer: str
    draw: Callable[[Source], str]


_TELL = "[|By the way, |Just so you know, |Note: |Hi, |Hello, |Please remember: |So, |For later: |Remember that |Remember: ]"
_CHANGE = "[Actually, |Sorry, |Correction: |Wait, |No, |Update: |Oh, ]"
_ASK = (
    "[||Tell me, |Please tell me: |So, |Now, |Do you remember: |Can you remember: |Quick question: |Once more: |Hey, "
    "|Say, |Remind me: |A test: |I forgot, |Look back: |By the way, |From what I said: |Just checking: |And now, ]"
)


def _code(source: Source) -> str:
    return (
        str(source.integer(100, 99999)) if source.chance(0.6) else f"{source.word().upper()}-{source.integer(10, 999)}"
    )


ITEMS: Final = (
    Item(
        (_TELL + "my name is {v}[.|!|]", _TELL + "I am [called |]{v}[.|]"),
        (_CHANGE + "my name is {v}.",),
        (_ASK + "what is my name?", _ASK + "[who am I|what am I called|how am I called]?"),
        "Your name is {v}.",
        Source.name,
    ),
    Item(
        (_TELL + "I live in {v}.", _TELL + "my home is in {v}.", _TELL + "I come from {v}."),
        (_CHANGE + "I live in {v}[ now|].",),
        (_ASK + "where do I live?", _ASK + "[which|what] [town|city|place] do I live in?"),
        "You live in {v}.",
        Source.place,
    ),
    Item(
        (_TELL + "my favourite [colour|color] is {v}.", _TELL + "I like {v} best of all colours."),
        (_CHANGE + "my favourite colour is {v}.",),
        (_ASK + "[what|which] is my favourite [colour|color]?", _ASK + "what colour do I like[ best|]?"),
        "Your favourite colour is {v}.",
        lambda s: s.choice(words.COLOURS),
    ),
    Item(
        (_TELL + "I work as a {v}.", _TELL + "my job is {v}.", _TELL + "I am a {v} by profession."),
        (_CHANGE + "I work as a {v}[ now|].",),
        (_ASK + "what is my job?", _ASK + "what do I [do for a living|work as]?"),
        "You work as a {v}.",
        lambda s: s.choice(words.JOBS),
    ),
    Item(
        (_TELL + "I am {v} years old.", _TELL + "my age is {v}."),
        (_CHANGE + "I am {v} years old.",),
        (_ASK + "how old am I?", _ASK + "what is my age?"),
        "You are {v} years old.",
        lambda s: str(s.integer(8, 98)),
    ),
    Item(
        (_TELL + "my {w} is [called|named] {v}.", _TELL + "I have a {w} [called|named] {v}."),
        (_CHANGE + "my {w} is called {v}.",),
        (_ASK + "[what is my {w} called|what do I call my {w}|what did I name my {w}|what is the name of my {w}]?",),
        "Your {w} is called {v}.",
        Source.name,
    ),
    Item(
        (_TELL + "the {w} [code|number] is {v}.", _TELL + "my {w} code is {v}."),
        (_CHANGE + "the {w} code is {v}.",),
        (_ASK + "what is the {w} code?", _ASK + "which {w} code did I [give|tell] you?"),
        "The {w} code is {v}.",
        _code,
    ),
    Item(
        (_TELL + "I parked the {w} in {v}.", _TELL + "the {w} is in {v}.", _TELL + "I left the {w} in {v}."),
        (_CHANGE + "the {w} is in {v}[ now|].",),
        (_ASK + "where is the {w}?", _ASK + "where did I [leave|put] the {w}?"),
        "The {w} is in {v}.",
        Source.place,
    ),
    Item(
        (_TELL + "we meet {w} on {v}.", _TELL + "the meeting with {w} is on {v}."),
        (_CHANGE + "the meeting with {w} is on {v}.",),
        (_ASK + "when [do we meet|is the meeting with] {w}?", _ASK + "on which day do we meet {w}?"),
        "The meeting with {w} is on {v}.",
        lambda s: s.choice(words.WEEKDAYS),
    ),
)
TOLD: Final = ("I'll remember that.", "Understood.", "Noted.")


def draw(source: Source) -> Conversation:
    count = source.integer(1, 4)
    items = source.sample(ITEMS, count)
    labels = [source.phrase(1, 1) for _ in items]
    values = [item.draw(source) for item in items]
    turns: list[Message] = []

    def tell(patterns: tuple[str, ...], index: int) -> str:
        text = source.reply(patterns, w=labels[index], v=values[index])
        return text[0].upper() + text[1:]

    index = 0
    while index < count:
        text = tell(items[index].tells, index)
        if index + 1 < count and source.chance(0.3):
            index += 1
            text += " " + tell(items[index].tells, index)
        turns += [user(text), assistant(source.choice(TOLD))]
        index += 1
        if source.chance(0.4):
            topic, question = small_talk.ask(source)
            turns += [user(question), assistant(topic.answers[0])]
    asked = source.integer(0, count - 1)
    if source.chance(0.25):
        values[asked] = items[asked].draw(source)
        turns += [user(tell(items[asked].changes, asked)), assistant(source.choice(TOLD))]
    if source.chance(0.25):
        return _telling(source, [*idle_system(source), *turns])
    question = source.wording(items[asked].asks, w=labels[asked])
    answer = items[asked].answer.format(w=labels[asked], v=values[asked])
    turns = [*idle_system(source), *turns, user(casual(source, question[0].upper() + question[1:]))]
    return conversation(
        source, Skill.MEMORY, turns, answer, Says((values[asked],)), f"The user told me: {values[asked]}."
    )


def _telling(source: Source, turns: list[Message]) -> Conversation:
    """The conversation as far as one of the statements, which is to be answered."""
    told = [place for place, turn in enumerate(turns) if turn["role"] == "assistant" and turn["content"] in TOLD]
    return conversation(
        source,
        Skill.MEMORY,
        turns[: source.choice(told)],
        TOLD[0],
        Says(("remember",)),
        "The user tells me something for later.",
    )
