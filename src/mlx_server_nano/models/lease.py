"""The right to use a loaded model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import structs

from mlx_server_nano.config.models import RequestDefaults
from mlx_server_nano.errors import QueueFullError
from mlx_server_nano.models.generation import Generation
from mlx_server_nano.models.worker import Worker
from mlx_server_nano.types import GenerationRequest, ModelInfo, Work

if TYPE_CHECKING:
    from mlx_server_nano.chat.model import ChatModel


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is ready: its worker, what that told, and what its chat template tells."""

    worker: Worker
    info: ModelInfo
    chat: ChatModel


class Lease:
    """Holds a model in memory; made and ended by `Manager.lease`.

    model_id: the name that clients are shown. chat: how the model chats. defaults: for what requests leave open.
    """

    def __init__(self, model_id: str, loaded: Loaded, capacity: int, defaults: RequestDefaults) -> None:
        """Raises InvalidRequestError for a tool format that there is not."""
        self.model_id = model_id
        self.info = loaded.info
        self.chat = loaded.chat.configured(defaults.tool_format, defaults.chat_template_kwargs)
        self.defaults = defaults
        self._worker = loaded.worker
        self._capacity = capacity
        self._generations: list[Generation] = []

    def generate(self, *requests: Work) -> Generation:
        """Start requests that belong together. Raises QueueFullError if they and the model's unfinished choices exceed
        what may run and wait, WorkerDiedError if the worker has died."""
        unfinished = self._worker.open_choices
        if unfinished and unfinished + sum(request.n for request in requests) > self._capacity:
            raise QueueFullError(f"{self.model_id} has {unfinished} unfinished choices of {self._capacity} at most.")
        generation = self._worker.generate(*map(self._filled, requests))
        self._generations.append(generation)
        return generation

    def _filled(self, request: Work) -> Work:
        if not isinstance(request, GenerationRequest):
            return request
        return structs.replace(
            request,
            sampling=self.defaults.fill(request.sampling),
            max_tokens=self.defaults.max_tokens if request.max_tokens is None else request.max_tokens,
        )

    def end(self) -> None:
        """Cancel what is unfinished."""
        for generation in self._generations:
            generation.cancel()
