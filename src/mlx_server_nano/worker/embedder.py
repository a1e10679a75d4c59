"""Embeddings, a portion at each step of the engine.

Texts of similar length share a pass and are padded at their ends: a causal model's states do not depend on what follows, so the
padding changes no vector. A text that is longer than a portion goes alone, through caches."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_server_nano.errors import GenerationError, InvalidRequestError, ServerError
from mlx_server_nano.protocol import Embedded, Failed
from mlx_server_nano.worker import memory
from mlx_server_nano.worker.pooling import EmbeddingPlan, Pooling
from mlx_server_nano.worker.ranks import ALONE, Ranks

_LOG = logging.getLogger(__name__)

Vector = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(slots=True, eq=False)
class EmbeddingTask:
    """A tokenized request; `vectors` fills up by the texts' numbers. dimensions: how many to keep; None: all."""

    request_id: int
    texts: list[list[int]]
    dimensions: int | None
    vectors: dict[int, Vector] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Text:
    task: EmbeddingTask
    number: int
    ids: list[int]


class Embedder:
    def __init__(
        self,
        model: Any,
        new_caches: Callable[[], list[Any]],
        plan: EmbeddingPlan,
        *,
        free_memory: Callable[[], object] = lambda: None,
        ranks: Ranks = ALONE,
    ) -> None:
        """free_memory: gives back what can be spared, called when memory has run out."""
        self._free_memory = free_memory
        self._ranks = ranks
        self._retried = False
        self._model = model
        self._new_caches = new_caches
        self._plan = plan
        self._tasks: dict[int, EmbeddingTask] = {}
        self._waiting: deque[_Text] = deque()
        self._running: Iterator[None] | None = None
        self._batch: list[_Text] = []

    @property
    def idle(self) -> bool:
        return not self._waiting and self._running is None

    def add(self, task: EmbeddingTask) -> None:
        self._tasks[task.request_id] = task
        texts = [_Text(task, number, ids) for number, ids in enumerate(task.texts)]
        self._waiting += sorted(texts, key=lambda text: -len(text.ids))

    def cancel(self, request_id: int) -> None:
        if self._tasks.pop(request_id, None) is not None:
            self._waiting = deque(text for text in self._waiting if text.task.request_id != request_id)

    def step(self, budget: int) -> list[Embedded | Failed]:
        """Work on `budget` tokens, and give what is complete, or failed: the texts that were at work, where memory ran out
        at the second time."""
        if self.idle:
            return []
        try:
            return self._step(budget)
        except Exception as error:
            self._running = None
            if not isinstance(error, ServerError):
                self._ranks.fail(error)
                if memory.is_shortage(error) and not self._retried:
                    _LOG.warning("Memory ran out in an embedding, which begins anew: %s", error)
                    self._retried = True
                    self._waiting.extendleft(
                        text for text in reversed(self._batch) if text.task.request_id in self._tasks
                    )
                    self._free_memory()
                    return []
                _LOG.exception("Embedding failed")
                error = GenerationError(f"The input could not be processed: {error}")
            dropped = {text.task.request_id for text in self._batch} & self._tasks.keys()
            for request_id in dropped:
                self.cancel(request_id)
            return [Failed(request_id, error.to_failure()) for request_id in dropped]

    def _step(self, budget: int) -> list[Embedded | Failed]:
        if self._running is None:
            self._running = self._embed(self._take(budget), budget)
        try:
            next(self._running)
            return []
        except StopIteration:
            self._running, self._retried = None, False
        tasks = {id(text.task): text.task for text in self._batch}.values()
        done = [task for task in tasks if len(task.vectors) == len(task.texts) and task.request_id in self._tasks]
        for task in done:
            del self._tasks[task.request_id]
        return [self._answer(task) for task in done]

    def _take(self, budget: int) -> list[_Text]:
        self._batch = [self._waiting.popleft()]
        longest = len(self._batch[0].ids)
        while self._waiting:
            longest = max(longest, len(self._waiting[0].ids))
            if longest * (len(self._batch) + 1) > budget:
                break
            self._batch.append(self._waiting.popleft())
        return self._batch

    def _embed(self, texts: list[_Text], portion: int) -> Iterator[None]:
        body, pooling = _body(self._model), self._plan.pooling
        longest = max(len(text.ids) for text in texts)
        caches = self._new_caches() if longest > portion else None
        pooled = mx.zeros(1)
        for start in range(0, longest, portion):
            if start:
                yield
            parts = [text.ids[start : start + portion] for text in texts]
            hidden = body(mx.array(_padded(parts)), cache=caches).astype(mx.float32)
            lengths = mx.array([len(part) for part in parts])
            if pooling is Pooling.MEAN:
                inside = mx.arange(hidden.shape[1])[None] < lengths[:, None]
                pooled = pooled + mx.where(inside[..., None], hidden, 0).sum(axis=1)
            elif pooling is Pooling.LAST:
                pooled = hidden[mx.arange(len(texts)), lengths - 1]
            elif start == 0:
                pooled = hidden[:, 0]
            mx.eval(pooled, hidden)
        if pooling is Pooling.MEAN:
            pooled = pooled / mx.array([[len(text.ids)] for text in texts])
        for text, vector in zip(texts, np.array(pooled), strict=True):
            text.task.vectors[text.number] = vector

    def _answer(self, task: EmbeddingTask) -> Embedded | Failed:
        """A truncated vector has length 1 whatever the whole one has."""
        vectors = np.stack([task.vectors[number] for number in range(len(task.texts))])
        if task.dimensions is not None and task.dimensions > vectors.shape[1]:
            error = InvalidRequestError(
                f"This model's embeddings have {vectors.shape[1]} dimensions.", param="dimensions"
            )
            return Failed(task.request_id, error.to_failure())
        vectors = vectors[:, : task.dimensions]
        if self._plan.normalize or task.dimensions is not None:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        encoded = tuple(vector.astype("<f4").tobytes() for vector in vectors)
        return Embedded(task.request_id, encoded, sum(map(len, task.texts)))


def _padded(parts: list[list[int]]) -> list[list[int]]:
    longest = max(map(len, parts))
    return [part + [0] * (longest - len(part)) for part in parts]


def _body(model: Any) -> Any:
    """What gives the final hidden states, all layers and the last norm without the head, under the names that mlx-lm's
    models have for it. Raises InvalidRequestError if there is none."""
    inner = getattr(model, "language_model", model)
    for name in ("model", "backbone", "transformer"):
        if (body := getattr(inner, name, None)) is not None:
            return body
    raise InvalidRequestError("This model gives no embeddings: its hidden states can't be had.", param="model")
