"""The shares of the skills in the training data, and conversations by number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from training.data.conversation import Conversation, Skill
from training.data.skills import (
    arithmetic,
    calls,
    conversion,
    extraction,
    limits,
    listing,
    memory,
    passage,
    persona,
    results,
    rewriting,
    small_talk,
    stopping,
)
from training.data.source import Source, Split

DRAW: Final[Mapping[Skill, Callable[[Source], Conversation]]] = {
    Skill.SMALL_TALK: small_talk.draw,
    Skill.LIMITS: limits.draw,
    Skill.PERSONA: persona.draw,
    Skill.PASSAGE: passage.draw,
    Skill.ARITHMETIC: arithmetic.draw,
    Skill.CONVERSION: conversion.draw,
    Skill.LISTING: listing.draw,
    Skill.REWRITING: rewriting.draw,
    Skill.EXTRACTION: extraction.draw,
    Skill.TOOL_CHOICE: calls.choose,
    Skill.TOOL_STRUCTURE: calls.structure,
    Skill.TOOL_PARALLEL: calls.parallel,
    Skill.TOOL_NONE: calls.refuse,
    Skill.TOOL_RESULT: results.answer,
    Skill.TOOL_STEPS: results.steps,
    Skill.MEMORY: memory.draw,
    Skill.STOPPING: stopping.draw,
}

# Of conversations, not of tokens. Tool calls are the hardest and the most wanted.
SHARES: Final[Mapping[Skill, float]] = {
    Skill.SMALL_TALK: 4,
    Skill.LIMITS: 1,
    Skill.PERSONA: 6,
    Skill.PASSAGE: 9,
    Skill.ARITHMETIC: 10,
    Skill.CONVERSION: 9,
    Skill.LISTING: 9,
    Skill.REWRITING: 3,
    Skill.EXTRACTION: 8,
    Skill.TOOL_CHOICE: 20,
    Skill.TOOL_STRUCTURE: 11,
    Skill.TOOL_PARALLEL: 22,
    Skill.TOOL_NONE: 8,
    Skill.TOOL_RESULT: 6,
    Skill.TOOL_STEPS: 6,
    Skill.MEMORY: 3,
    Skill.STOPPING: 3,
}
ALONE: Final = 0.9  # conversations without an unrelated exchange in front
CHATTY: Final = (Skill.SMALL_TALK, Skill.LIMITS, Skill.LISTING, Skill.REWRITING, Skill.ARITHMETIC, Skill.STOPPING)


def conversation(seed: int, number: int, split: Split = Split.TRAIN) -> Conversation:
    """The conversation of a number: every seed has its own endless list, and any part of it can be made alone."""
    source = Source(f"{seed}:{number}", split)
    skill = source.random.choices(list(SHARES), list(SHARES.values()))[0]
    drawn = DRAW[skill](source)
    return drawn if source.chance(ALONE) else _after_chat(source, drawn)


def held_out(skill: Skill, count: int, seed: int = 0) -> Iterator[Conversation]:
    """Conversations of one skill that training can't contain, no two with the same prompt."""
    seen: set[str] = set()
    number = 0
    while len(seen) < count:
        drawn = DRAW[skill](Source(f"{seed}:{skill}:{number}", Split.HELD_OUT))
        number += 1
        key = repr((drawn.messages[:-1], drawn.tools))
        if key not in seen:
            seen.add(key)
            yield drawn


def _after_chat(source: Source, drawn: Conversation) -> Conversation:
    """The conversation with one or two unrelated exchanges before its first user turn."""
    lead = [m for m in drawn.messages[:1] if m["role"] == "system"]
    if lead and drawn.skill in (Skill.PERSONA, Skill.EXTRACTION):  # their system prompt would rule the chat, too
        return drawn
    history = []
    for _ in range(source.integer(1, 2)):
        chat = DRAW[source.choice(CHATTY)](source)
        history += [m for m in chat.messages if m["role"] != "system"]
    return replace(drawn, messages=[*lead, *history, *drawn.messages[len(lead) :]])
