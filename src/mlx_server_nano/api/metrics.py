"""GET /metrics, for Prometheus. docs/metrics.md lists them all, and a test holds it to that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

if TYPE_CHECKING:
    from mlx_server_nano.models.manager import Manager

METRICS_PATH: Final = "/metrics"
_PREFIX: Final = "mlx_server_"

# In seconds. A step takes milliseconds, a long prompt or a model's load minutes.
_GAPS: Final = (0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2, 5)
_WAITS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TOTALS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


@dataclass(frozen=True, slots=True)
class ModelMeters:
    """One model's, without the look-up by labels that each use would cost."""

    prompts: Counter
    hits: Counter
    prompt: Counter
    cached: Counter
    generated: Counter
    queue: Histogram
    first_token: Histogram
    gap: Histogram


class Metrics:
    """The metrics of one application, in a registry of their own, and their endpoint."""

    def __init__(self, manager: Manager) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_OfModels(manager))
        self._requests = self._counter(
            "requests", "Requests that were answered, by route and status code.", "route", "code"
        )
        self._seconds = self._histogram("request_seconds", "From a request's arrival to its end.", _TOTALS, "route")
        counter, histogram = self._counter, self._histogram
        self._by_model = ModelMeters(
            prompts=counter("prompts", "Prompts, and inputs of embeddings requests.", "model"),
            hits=counter("prefix_cache_hits", "Prompts that began with tokens from the prefix cache.", "model"),
            prompt=counter("prompt_tokens", "Tokens of prompts, those from the prefix cache among them.", "model"),
            cached=counter("cached_tokens", "Tokens of prompts that came from the prefix cache.", "model"),
            generated=counter("generated_tokens", "Tokens of answers.", "model"),
            queue=histogram(
                "queue_seconds", "From the loaded model's getting a request to its work on it.", _WAITS, "model"
            ),
            first_token=histogram(
                "first_token_seconds", "From a request's arrival to its first token.", _WAITS, "model"
            ),
            gap=histogram(
                "token_gap_seconds", "Between an answer's tokens, or groups that came at once.", _GAPS, "model"
            ),
        )
        self._meters: dict[str, ModelMeters] = {}

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(_PREFIX + name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(_PREFIX + name, text, labels, buckets=buckets, registry=self.registry)

    def of(self, model: str) -> ModelMeters:
        """`model` is an id, not any of a client's names for it: there must not be endlessly many."""
        if model not in self._meters:
            names = ModelMeters.__slots__
            self._meters[model] = ModelMeters(*(getattr(self._by_model, name).labels(model) for name in names))
        return self._meters[model]

    def tokens(self, model: str) -> tuple[int, int, int]:
        """Of prompts, those of them that came from the prefix cache, and of answers."""
        meters = self._meters.get(model)
        if meters is None:
            return 0, 0, 0
        return _value(meters.prompt), _value(meters.cached), _value(meters.generated)

    def answered(self, route: str, code: int, seconds: float) -> None:
        """`route` is a pattern, not a path."""
        self._requests.labels(route, str(code)).inc()
        self._seconds.labels(route).observe(seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        encode, media_type = choose_encoder(Headers(scope=scope).get("accept", ""))
        await Response(encode(self.registry), headers={"content-type": media_type})(scope, receive, send)


def _value(counter: Counter) -> int:
    (family,) = counter.collect()
    return int(family.samples[0].value)


class _OfModels(Collector):
    """What the manager knows, asked when somebody looks."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def collect(self) -> Iterator[Metric]:
        states = self._manager.status()
        running = _gauge("running_requests", "Requests that a model works on.", "model")
        waiting = _gauge("waiting_requests", "Requests that wait for a loaded model to begin with them.", "model")
        memory = _gauge(
            "model_memory_bytes", "Memory that a model takes, or is reckoned to take if that is more.", "model"
        )
        kv = _gauge("kv_bytes", "Memory of the KV caches of running requests.", "model")
        prefix = _gauge("prefix_cache_bytes", "Memory of KV caches that are kept for later requests.", "model")
        for state in states:
            running.add_metric([state.id], state.running - state.waiting)
            waiting.add_metric([state.id], state.waiting)
            memory.add_metric([state.id], state.memory_bytes)
            kv.add_metric([state.id], state.kv_bytes)
            prefix.add_metric([state.id], state.prefix_cache_bytes)
        limit = _gauge("memory_limit_bytes", "Memory for all models together.")
        limit.add_metric([], self._manager.memory_limit)
        starts = _count("worker_starts", "Worker processes that were started.")
        starts.add_metric([], self._manager.worker_starts)
        crashes = _count("worker_crashes", "Worker processes that died by themselves.", "model")
        drafted = _count("drafted_tokens", "Tokens that were guessed and verified.", "model")
        accepted = _count("accepted_tokens", "Guessed tokens that came true.", "model")
        loads = SummaryMetricFamily(f"{_PREFIX}load_seconds", "Loads of models, downloads aside.", labels=["model"])
        for model, counts in self._manager.counts.items():
            crashes.add_metric([model], counts.crashes)
            drafted.add_metric([model], counts.drafted_tokens)
            accepted.add_metric([model], counts.accepted_tokens)
            loads.add_metric([model], counts.loads, counts.load_seconds)
        yield from (running, waiting, memory, kv, prefix, limit, starts, crashes, drafted, accepted, loads)

    def describe(self) -> list[Metric]:
        """Nothing: else the registry would ask `collect` for it before there is a manager that can answer."""
        return []


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, text, labels=labels)


def _count(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(_PREFIX + name, text, labels=labels)
