"""Custom tools, whose input is plain text: how they look to a model, which knows functions only, and how its calls are read back.

The model sees a function with one string. The tool's grammar, if it has one, is told to it, not enforced.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from mlx_server_nano.chat.deltas import CallArguments, CallEnd, CallStart, Delta
from mlx_server_nano.types import Tool

_INPUT: Final = "input"
_PARAMETERS: Final = {
    "type": "object",
    "properties": {_INPUT: {"type": "string"}},
    "required": [_INPUT],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Toolset:
    """The tools that the model gets, and which of them (by name) are custom."""

    tools: tuple[Tool, ...] = ()
    custom: frozenset[str] = frozenset()

    def has(self, name: str | None, *, custom: bool) -> bool:
        return any(tool.name == name for tool in self.tools) and (name in self.custom) == custom


def custom_tool(name: str, description: str | None, grammar: tuple[str, str] | None) -> Tool:
    """grammar: its syntax (lark or regex) and its text."""
    if grammar is not None:
        rule = f"The input must follow this {grammar[0]} grammar:\n{grammar[1]}"
        description = f"{description}\n\n{rule}" if description else rule
    return Tool(name=name, description=description, parameters=_PARAMETERS)


def custom_arguments(text: str) -> str:
    """The arguments by which the model is told of a call that it has made earlier."""
    return msgspec.json.encode({_INPUT: text}).decode()


class CustomInputs:
    """Turns the arguments of custom tools' calls into their input. It comes in one piece, before the call's end."""

    def __init__(self, custom: Collection[str]) -> None:
        self._custom = custom
        self._held: list[str] | None = None

    def read(self, deltas: Sequence[Delta]) -> Sequence[Delta]:
        """The deltas of one choice, in order."""
        if not self._custom:
            return deltas
        out: list[Delta] = []
        for delta in deltas:
            if isinstance(delta, CallStart) and delta.name in self._custom:
                self._held = []
            elif isinstance(delta, CallArguments) and self._held is not None:
                self._held.append(delta.fragment)
                continue
            elif isinstance(delta, CallEnd) and self._held is not None:
                out.append(CallArguments(delta.index, _input("".join(self._held))))
                self._held = None
            out.append(delta)
        return out


def _input(arguments: str) -> str:
    """Arguments that are not those of the function stay as the model wrote them."""
    try:
        found = msgspec.json.decode(arguments, type=dict[str, Any]).get(_INPUT)
    except (msgspec.MsgspecError, RecursionError):
        found = None
    return found if isinstance(found, str) else arguments
