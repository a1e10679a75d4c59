"""What the encoders of all chat dialects begin with, and what those that count tokens do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlx_server_nano.chat.answer import Answers, Piece, Usage
from mlx_server_nano.chat.request import ChatRequest
from mlx_server_nano.protocol import Event, Measured
from mlx_server_nano.types import GenerationRequest, Measure

if TYPE_CHECKING:
    from mlx_server_nano.models.lease import Lease


class PromptLength:
    """How many tokens a chat request's prompt would have; nothing is generated."""

    def __init__(self, chat: ChatRequest) -> None:
        self._chat = chat
        self.tokens = 0

    def begin(self, lease: Lease) -> Measure:
        """Raises InvalidRequestError for what the model can't do."""
        return Measure(request=lease.chat.bind(self._chat).request)

    def feed(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Measured):
                self.tokens = event.tokens


class Reader:
    """A chat request as the leased model takes it, and the reading of its answers."""

    def __init__(self, chat: ChatRequest) -> None:
        self.chat = chat
        self._answers: Answers | None = None

    def begin(self, lease: Lease) -> GenerationRequest:
        """Raises InvalidRequestError for what the model can't do."""
        bound = lease.chat.bind(self.chat)
        self._answers = Answers(bound)
        return bound.request

    def pieces(self, events: Sequence[Event]) -> list[Piece]:
        return self._answers.feed(events) if self._answers is not None else []

    @property
    def usage(self) -> Usage:
        """Up to now."""
        return self._answers.usage if self._answers is not None else Usage()
