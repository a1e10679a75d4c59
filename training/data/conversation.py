"""A generated conversation: what is said, which tools are there, and how an answer to its last turn is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from training.data.checks import Check
from training.render import Message, Tool


class Skill(StrEnum):
    SMALL_TALK = "small talk"
    LIMITS = "knowing its limits"
    PERSONA = "system prompts"
    PASSAGE = "answering from a passage"
    ARITHMETIC = "arithmetic"
    CONVERSION = "unit conversion"
    LISTING = "listing"
    REWRITING = "rewriting"
    EXTRACTION = "extraction as JSON"
    TOOL_CHOICE = "tool call, several tools"
    TOOL_STRUCTURE = "tool call, arrays and objects"
    TOOL_PARALLEL = "parallel tool calls"
    TOOL_NONE = "no tool fits"
    TOOL_RESULT = "answer from a tool's result"
    TOOL_STEPS = "tool calls over several turns"
    MEMORY = "memory over turns"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """The last message is the assistant's: the answer that is trained. `check` accepts that answer and equal ones."""

    skill: Skill
    messages: Sequence[Message]
    check: Check
    tools: Sequence[Tool] = ()
    thinking: bool = False


def system(text: str) -> Message:
    return {"role": "system", "content": text}


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str, reasoning: str = "") -> Message:
    return {"role": "assistant", "content": text, "reasoning_content": reasoning}


def calling(calls: Sequence[tuple[str, Mapping[str, Any]]], reasoning: str = "") -> Message:
    """An assistant's turn that only calls tools; `calls` are names with arguments."""
    functions = [{"type": "function", "function": {"name": name, "arguments": args}} for name, args in calls]
    return {**assistant("", reasoning), "tool_calls": functions}


def tool_result(text: str) -> Message:
    return {"role": "tool", "content": text}
