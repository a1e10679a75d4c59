"""Sends what is drawn to a running server, and holds its answers to the document."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import hypothesis
import requests
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.core.transport import Response
from schemathesis.specs.openapi import checks

from benchmarks.fuzz.cases import Request, alone, bounded, can_break, complete, has_fields, strategy

_PATIENCE_SECONDS: Final = 60.0
_SHOWN: Final = 600
_ALWAYS: Final = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
_ENDS: Final = ("data: [DONE]", '"type":"message_stop"', '"type":"response.completed"', '"type":"response.incomplete"')


@dataclass(slots=True)
class Tally:
    """statuses: by operation. findings: what must not be, each kind once, with the shortest request that shows it."""

    statuses: dict[str, Counter[int]] = field(default_factory=dict)
    findings: dict[tuple[str, str], str] = field(default_factory=dict)
    slowest: float = 0.0

    def add(self, operation: str, kind: str, told: str) -> None:
        known = self.findings.get((operation, kind))
        if known is None or len(told) < len(known):
            self.findings[operation, kind] = told


class Campaign:
    """model: what every request asks for that asks for a model at all. A kept response is made first, for the paths that name
    one."""

    def __init__(self, url: str, model: str, document: dict[str, Any]) -> None:
        self._url = url
        self._model = model
        self._schema = schemathesis.openapi.from_dict(document)
        self._complete = schemathesis.openapi.from_dict(complete(document))
        self._session = requests.Session()
        self.tally = Tally()

    def close(self) -> None:
        self._session.close()

    def labels(self) -> list[str]:
        """As "POST /v1/chat/completions"."""
        return [found.ok().label for found in self._schema.get_all_operations() if isinstance(found, Ok)]

    def run(self, label: str, examples: int, seed: int) -> None:
        """So many drawn requests of an operation that are as the document says, as many that are not, and each field of as many
        bodies, where there are such."""
        operation = self._schema.find_operation_by_label(label)
        filled = self._complete.find_operation_by_label(label)
        assert operation is not None and filled is not None
        _draw(strategy(operation, valid=True), self._whole, examples, seed)
        if can_break(operation):
            _draw(strategy(operation, valid=False), self._whole, examples, seed)
        if has_fields(operation.path):
            _draw(strategy(filled, valid=True), self._fields, examples, seed)

    def _whole(self, case: Request) -> None:
        if case.path_parameters and "id" in case.path_parameters:
            case.path_parameters["id"] = self._kept()
        if isinstance(case.body, dict):
            case.body = bounded(case.body, self._model)
        self._check(case, [*_ALWAYS, checks.negative_data_rejection])

    def _fields(self, case: Request) -> None:
        assert isinstance(case.body, dict)
        for body in alone(case.operation.path, case.body, self._model):
            case.body = body
            self._check(case, _ALWAYS)

    def _kept(self) -> str:
        body = json.dumps({"model": self._model, "input": "hi", "max_output_tokens": 16})
        made = self._session.post(f"{self._url}/v1/responses", data=body, timeout=_PATIENCE_SECONDS)
        made.raise_for_status()
        return str(made.json()["id"])

    def _check(self, case: Request, wanted: list[Any]) -> None:
        label, start = case.operation.label, time.monotonic()
        sent = f"{case.formatted_path} {case.query or ''} {_shown(case.body)}"
        try:
            response = case.call(self._url, self._session, timeout=_PATIENCE_SECONDS)
        except requests.RequestException as error:
            self.tally.add(label, type(error).__name__, f"{sent} -> {error}")
            return
        self.tally.slowest = max(self.tally.slowest, time.monotonic() - start)
        self.tally.statuses.setdefault(label, Counter())[response.status_code] += 1
        for kind in _faults(response):
            self.tally.add(label, kind, f"{sent} -> {response.status_code} {response.text[:_SHOWN]}")
        try:
            case.validate_response(response, checks=wanted)
        except FailureGroup as group:
            for failure in group.exceptions:
                told = " ".join(str(failure).split())[:_SHOWN]
                self.tally.add(label, type(failure).__name__, f"{sent} -> {response.status_code} {told}")


def _draw(drawn: st.SearchStrategy[Request], send: Callable[[Request], None], examples: int, seed: int) -> None:
    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(drawn)
    def sending(case: Request) -> None:
        send(case)

    sending()


def _faults(response: Response) -> Iterator[str]:
    """What is wrong with an answer whatever the document says."""
    if response.status_code >= 500:
        yield "a server's error"
    if response.status_code == 200 and response.headers["content-type"][0].startswith("text/event-stream"):
        last = [line for line in response.text.splitlines() if line][-1:]
        if "internal error" in response.text or '"server_error"' in response.text or '"api_error"' in response.text:
            yield "a server's error in the stream"
        elif not any(end in line for line in last for end in _ENDS) and '"ready"' not in response.text:
            yield "a stream without an end"


def _shown(body: object) -> str:
    try:
        return json.dumps(body)[: 4 * _SHOWN]
    except TypeError:
        return repr(body)[: 4 * _SHOWN]
