"""What the encoders of all chat dialects begin with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlx_server_nano.chat.answer import Answers, Piece, Usage
from mlx_server_nano.chat.request import ChatRequest
from mlx_server_nano.protocol import Event
from mlx_server_nano.types import GenerationRequest

if TYPE_CHECKING:
    from mlx_server_nano.models.lease import Lease


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
