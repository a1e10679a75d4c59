"""What the skills share: closing a conversation, and the system prompts that ask for nothing special."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from training.data.checks import Check
from training.data.conversation import Conversation, Skill, assistant, system, user
from training.data.source import Source
from training.render import Message

IDLE_SYSTEM_PROMPTS: Final = (
    "You are a [|very ][helpful|friendly|useful|polite|concise|capable] [|AI |virtual |digital ][assistant|helper|bot].",
    "You are a helpful assistant. [Be brief|Be concise|Keep it short|Answer clearly|Answer in plain words].",
    "[Be helpful|Be brief|Be kind|Be precise|Help the user|Answer questions|Be nice][| and honest| and clear].",
    "[Answer|Reply] [briefly|in short sentences|truthfully|with care|to the point]. [|Do not make things up.]",
    "You [work|help people] [at|for] {name}'s [shop|office|company|school]. [Be polite.|Help the customers.|]",
    "[Today is|The date is|Current date:] {date}. You are [a helpful assistant|an assistant].",
    "You are [a|an] [expert|senior|helpful] [engineer|analyst|writer|agent] [working on|for] the {word} [project|team].",
)


def idle_system(source: Source) -> list[Message]:
    """No system prompt, or one that changes nothing about the answer."""
    if source.chance(0.6):
        return []
    date = f"{source.integer(2020, 2032)}-{source.integer(1, 12):02}-{source.integer(1, 28):02}"
    count = 1 if source.chance(0.8) else source.integer(2, 5)
    lines = [
        source.wording(IDLE_SYSTEM_PROMPTS, name=source.name(), date=date, word=source.word()) for _ in range(count)
    ]
    return [system(source.choice((" ", "\n")).join(lines).strip())]


def casual(source: Source, text: str) -> str:
    """Now and then without capitals or without the last mark, as people type."""
    if source.chance(0.1):
        text = text.lower()
    return text.rstrip("?.!") if source.chance(0.1) else text


def conversation(
    source: Source,
    skill: Skill,
    question: str | Sequence[Message],
    answer: str,
    check: Check,
    reasoning: str,
    *,
    thinking: bool | None = None,
) -> Conversation:
    """Close with `answer`. A question given as text gets an idle system prompt in front at times."""
    thinking = source.chance(0.5) if thinking is None else thinking
    messages = [*idle_system(source), user(question)] if isinstance(question, str) else list(question)
    return Conversation(
        skill=skill,
        messages=[*messages, assistant(answer, reasoning if thinking else "")],
        check=check,
        thinking=thinking,
    )


def series(items: Sequence[str], joint: str = "and") -> str:
    """a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {joint} {items[-1]}"
