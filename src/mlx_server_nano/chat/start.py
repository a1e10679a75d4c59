"""Whether a model starts inside its reasoning, read off the end of the rendered prompt."""

from __future__ import annotations

from mlx_server_nano.chat.formats.base import Format


def starts_in_reasoning(format: Format, prompt_tail: str) -> bool:
    """True where the prompt ends with the opening of the reasoning: templates of thinking models do that."""
    return format.reasoning is not None and prompt_tail.rstrip().endswith(format.reasoning.open)
