"""How a generated answer is judged: exactly, and without a second model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from training.render import END_OF_TURN

CALL: Final = re.compile(r"<tool_call>\n(.*?)\n</tool_call>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Call:
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """A completion taken apart. `calls` is None where a call is not valid JSON of the right shape."""

    content: str
    reasoning: str
    calls: tuple[Call, ...] | None
    ended: bool


def parse(completion: str) -> Answer:
    """Take apart what was generated after the generation prompt, special tokens included."""
    ended = END_OF_TURN in completion
    text, _, _ = completion.partition(END_OF_TURN)
    head, closed, tail = text.partition("</think>")
    reasoning, body = (head.removeprefix("<think>").strip("\n"), tail) if closed else ("", text)
    content = CALL.sub("", body).strip()
    if "<tool_call>" in content:
        return Answer(content, reasoning, None, ended)
    try:
        calls = tuple(Call(call["name"], call["arguments"]) for call in map(json.loads, CALL.findall(body)))
    except (ValueError, KeyError, TypeError):
        return Answer(content, reasoning, None, ended)
    return Answer(content, reasoning, calls, ended)


def same(left: Any, right: Any) -> bool:
    """Deep equality in which 1 equals 1.0 and true does not equal 1."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


class Check(Protocol):
    def passes(self, answer: Answer) -> bool: ...


@dataclass(frozen=True, slots=True)
class Says:
    """Plain text that contains all of `needed` and none of `banned`, whatever the case."""

    needed: tuple[str, ...]
    banned: tuple[str, ...] = ()

    def passes(self, answer: Answer) -> bool:
        text = answer.content.lower()
        return (
            answer.calls == ()
            and all(needle.lower() in text for needle in self.needed)
            and not any(needle.lower() in text for needle in self.banned)
        )


@dataclass(frozen=True, slots=True)
class Exactly:
    """One of some texts, to the letter."""

    texts: tuple[str, ...]

    def passes(self, answer: Answer) -> bool:
        return answer.calls == () and answer.content in self.texts


@dataclass(frozen=True, slots=True)
class Members:
    """A list in a fixed form: `count` different members of a category, and nothing else."""

    category: frozenset[str]
    count: int
    form: re.Pattern[str]

    def passes(self, answer: Answer) -> bool:
        items = [match[1].lower() for line in answer.content.split("\n") if (match := self.form.fullmatch(line))]
        lines = answer.content.count("\n") + 1
        return lines == len(items) == len(set(items)) == self.count and self.category.issuperset(items)


@dataclass(frozen=True, slots=True)
class JsonEquals:
    """JSON and nothing around it."""

    value: Any

    def passes(self, answer: Answer) -> bool:
        try:
            return answer.calls == () and same(json.loads(answer.content), self.value)
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class CallsEqual:
    """Exactly these calls, in any order, arguments deep-equal."""

    calls: tuple[Call, ...]

    def passes(self, answer: Answer) -> bool:
        if answer.calls is None or len(answer.calls) != len(self.calls):
            return False
        left = list(answer.calls)
        for wanted in self.calls:
            found = next((c for c in left if c.name == wanted.name and same(c.arguments, wanted.arguments)), None)
            if found is None:
                return False
            left.remove(found)
        return True
