"""A conversation in the terminal: what is sent to the server, and what comes back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final

# What `/set` sets.
OPTIONS: Final = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "max_tokens",
    "seed",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "reasoning_effort",
    "thinking_budget",
    "stop",
)


class Part(Enum):
    """What a piece of an answer is."""

    THINKING = auto()
    TEXT = auto()
    CALL = auto()
    ARGUMENTS = auto()


@dataclass(slots=True)
class Call:
    id: str
    name: str
    arguments: str = ""

    def to_wire(self) -> dict[str, Any]:
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(slots=True)
class Reply:
    """An answer, as far as it has come. tokens: of it, None until the server has told."""

    text: str = ""
    calls: dict[int, Call] = field(default_factory=dict)
    tokens: int | None = None

    def read(self, events: Iterable[Any]) -> Iterator[tuple[Part, str]]:
        """Take in the chunks of a stream, and give what is to be shown."""
        for chunk in events:
            if chunk.get("usage"):
                self.tokens = chunk["usage"]["completion_tokens"]
            for choice in chunk["choices"]:
                yield from self._delta(choice["delta"])

    def _delta(self, delta: Any) -> Iterator[tuple[Part, str]]:
        if thought := delta.get("reasoning_content"):
            yield Part.THINKING, thought
        if text := delta.get("content"):
            self.text += text
            yield Part.TEXT, text
        for piece in delta.get("tool_calls") or ():
            function = piece["function"]
            if piece["index"] not in self.calls:
                self.calls[piece["index"]] = Call(piece["id"], function["name"])
                yield Part.CALL, function["name"]
            if arguments := function.get("arguments"):
                self.calls[piece["index"]].arguments += arguments
                yield Part.ARGUMENTS, arguments

    def to_wire(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.calls:
            message["tool_calls"] = [call.to_wire() for call in self.calls.values()]
        return message


@dataclass(slots=True)
class Conversation:
    """options: by the names of `OPTIONS`. tools: in OpenAI's shape."""

    model: str
    system: str = ""
    messages: list[dict[str, Any]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    tools: list[Any] = field(default_factory=list)

    def request(self) -> dict[str, Any]:
        """The body of a chat completion."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        body = {"model": self.model, "messages": [*system, *self.messages], **self.options}
        return {**body, "tools": self.tools} if self.tools else body

    def body(self) -> dict[str, Any]:
        """The same, streamed."""
        return {**self.request(), "stream": True, "stream_options": {"include_usage": True}}

    def set(self, name: str, value: str) -> None:
        """`value` as JSON, or a text; `default` leaves it to the server. Raises ValueError."""
        if name not in OPTIONS:
            raise ValueError(f"there is no {name!r}; there are {', '.join(OPTIONS)}")
        if value == "default":
            self.options.pop(name, None)
            return
        try:
            self.options[name] = json.loads(value)
        except ValueError:
            self.options[name] = value

    def think(self, word: str) -> None:
        """Raises ValueError."""
        if word not in ("on", "off"):
            raise ValueError("say /think on or /think off")
        self.options["reasoning_effort"] = "medium" if word == "on" else "none"

    def to_json(self) -> str:
        return json.dumps(self.request(), indent=2, ensure_ascii=False)


def read_tools(text: str) -> list[Any]:
    """Tools as JSON: a list in OpenAI's shape, or of the functions alone. Raises ValueError."""
    tools = json.loads(text)
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise ValueError("the tools are no JSON list of objects")
    return [tool if "type" in tool and "function" in tool else {"type": "function", "function": tool} for tool in tools]
