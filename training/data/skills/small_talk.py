"""Greetings, and what the model says about itself and about the server."""

from __future__ import annotations

from typing import Final

from training.data.checks import Says
from training.data.conversation import Conversation, Skill
from training.data.skills import about_self, about_server
from training.data.skills.topics import Topic
from training.data.skills.turns import casual, conversation
from training.data.source import Source

TOPICS: Final = (*about_self.TOPICS, *about_server.TOPICS)


def ask(source: Source) -> tuple[Topic, str]:
    """A topic and one wording of it."""
    topic = source.choice(TOPICS)
    text = source.wording(topic.asked).strip()
    return topic, casual(source, text[0].upper() + text[1:] if source.chance(0.7) else text)


def draw(source: Source) -> Conversation:
    topic, text = ask(source)
    answer = source.choice(topic.answers)
    return conversation(source, Skill.SMALL_TALK, text, answer, Says(topic.needed), topic.thought)
