"""Which messages may be left out of a prompt that is too long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlx_server_nano.chat.prepare import TOOL_RESPONSE


def droppable(
    messages: Sequence[Mapping[str, Any]], *, head_instructs: bool, alternating: bool
) -> tuple[tuple[int, ...], ...]:
    """Groups of prepared messages that may go, the oldest first: all but instructions, the last user's message and what is
    newest. A call and its results are one group; for a template that wants user and assistant in turn a whole turn is.

    head_instructs: the first message holds the instructions, whatever its role.
    """
    groups: list[list[int]] = []
    asked: list[int] = []
    for i, message in enumerate(messages):
        role = message["role"]
        result = role == "tool" or (
            isinstance(message["content"], str) and message["content"].startswith(TOOL_RESPONSE)
        )
        if role == "system":
            continue
        if groups and (result or (alternating and role != "user")):
            groups[-1].append(i)
        else:
            groups.append([i])
        if role == "user" and not result:
            asked = groups[-1]
    kept = [asked, *groups[-1:], *(groups[:1] if head_instructs else [])]
    return tuple(tuple(group) for group in groups if group not in kept)
