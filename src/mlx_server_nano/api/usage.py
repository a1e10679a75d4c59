"""Counting a request's tokens."""

from __future__ import annotations

from mlx_server_nano.protocol import Delta, Event, Started


class Usage:
    """Tokens of one request, all choices together. `cached` of the `prompt` tokens came from the prefix cache."""

    def __init__(self) -> None:
        self.prompt = 0
        self.cached = 0
        self.completion = 0

    def feed(self, event: Event) -> None:
        if isinstance(event, Delta):
            self.completion += event.tokens
        elif isinstance(event, Started):
            self.prompt, self.cached = event.prompt_tokens, event.cached_tokens

    def to_openai(self) -> dict[str, object]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }
