"""What is known of one request: for its line in the access log, and on its way for the metrics."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.types import Scope

from mlx_server_nano.errors import ServerError
from mlx_server_nano.protocol import Delta, Embedded, Event, Started

if TYPE_CHECKING:
    from mlx_server_nano.api.metrics import Metrics, ModelMeters


class Record:
    """Filled in while the request is served. Times are of `time.perf_counter`, in seconds; None: it did not come to that.

    model: the loaded model's id. sent_at: when the worker got the request, started_at: when its first prompt began to be
    worked on. error: the code of what it failed with. gone: the client left before the end.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._meters: ModelMeters | None = None
        self.began_at = time.perf_counter()
        self.model: str | None = None
        self.status: int | None = None
        self.error: str | None = None
        self.gone = False
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.completion_tokens = 0
        self.sent_at: float | None = None
        self.started_at: float | None = None
        self.first_token_at: float | None = None
        self.last_token_at = 0.0

    @staticmethod
    def of(scope: Scope) -> Record:
        record: Record = scope["state"]["record"]
        return record

    def fail(self, error: ServerError) -> None:
        self.error = error.code or error.type

    def send(self, model: str) -> None:
        """The worker gets the request now."""
        self.model = model
        self._meters = self._metrics.of(model)
        self.sent_at = time.perf_counter()

    def feed(self, events: Sequence[Event]) -> None:
        """What came from the worker at once. Runs for every step of every stream."""
        meters = self._meters
        assert meters is not None and self.sent_at is not None  # noqa: S101  `send` came first
        tokens = 0
        for event in events:
            if type(event) is Delta:
                tokens += event.tokens
            elif isinstance(event, Started):
                if self.started_at is None:
                    self.started_at = time.perf_counter()
                    meters.queue.observe(self.started_at - self.sent_at)
                self._prompt(meters, event.prompt_tokens, event.cached_tokens)
            elif isinstance(event, Embedded):
                self._prompt(meters, event.tokens, 0)
        if not tokens:
            return
        now = time.perf_counter()
        if self.first_token_at is None:
            self.first_token_at = now
            meters.first_token.observe(now - self.began_at)
        else:
            meters.gap.observe(now - self.last_token_at)
        self.last_token_at = now
        self.completion_tokens += tokens
        meters.generated.inc(tokens)

    def _prompt(self, meters: ModelMeters, tokens: int, cached: int) -> None:
        self.prompt_tokens += tokens
        self.cached_tokens += cached
        meters.prompts.inc()
        meters.prompt.inc(tokens)
        if cached:
            meters.hits.inc()
            meters.cached.inc(cached)

    @property
    def tokens_per_second(self) -> float | None:
        """From the first token on."""
        if self.first_token_at is None or self.last_token_at <= self.first_token_at:
            return None
        return (self.completion_tokens - 1) / (self.last_token_at - self.first_token_at)
