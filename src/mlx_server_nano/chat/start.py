"""How an answer starts, read off the prompt."""

from __future__ import annotations

import re

from mlx_server_nano.chat.formats.base import Format, Route


def starts_in_reasoning(format: Format, prompt_tail: str) -> bool:
    """Whether the rendered prompt ends inside the model's reasoning: its opening is the last that the prompt says."""
    tail = prompt_tail.rstrip()
    if format.reasoning is not None and tail.endswith(tuple(opening.rstrip() for opening in format.reasoning.open)):
        return True
    for header in format.headers:
        if tail.endswith(header.end):
            head = re.split("|".join(map(re.escape, header.open)), tail)[-1]
            return any(
                route is Route.REASONING and re.search(expression, head) for expression, route in header.routes[:-1]
            )
    return False
