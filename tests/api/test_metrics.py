"""Metrics: what they count, and that docs/metrics.md and the dashboard tell of them all and of no others."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mlx_server_nano.api.metrics import Metrics
from mlx_server_nano.protocol import Delta
from mlx_server_nano.types import FinishReason
from tests.api.conftest import Running, wait_until
from tests.api.fakes import FakeManager, Forever, Script, started, text

ROOT = Path(__file__).parents[2]
CHAT = "/v1/chat/completions"
BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def server(start: Callable[..., Running]) -> Running:
    """The test's own, which has counted nothing else."""
    return start()


def samples(server: Any) -> dict[tuple[str, ...], float]:
    """By name and labels' values, without buckets."""
    response = httpx.get(f"{server.url}/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    return {
        (
            sample.name.removeprefix("mlx_server_"),
            *(sample.labels[label] for label in ("route", "code", "model") if label in sample.labels),
        ): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
        if "le" not in sample.labels
    }


def test_a_request_is_counted(server):
    server.manager.scripts["m"] = Script(lambda request: [started(7, 3), *text("a", "b", "c")])
    for stream in (False, True):
        assert httpx.post(server.url + CHAT, json={**BODY, "stream": stream}).status_code == 200
    wait_until(lambda: samples(server).get(("requests_total", CHAT, "200")) == 2)
    counted = samples(server)
    assert counted["requests_total", CHAT, "200"] == counted["request_seconds_count", CHAT] == 2
    assert counted["prompts_total", "m"] == counted["prefix_cache_hits_total", "m"] == 2
    assert counted["prompt_tokens_total", "m"] == 14
    assert counted["cached_tokens_total", "m"] == 6
    assert counted["generated_tokens_total", "m"] == 6
    assert counted["queue_seconds_count", "m"] == counted["first_token_seconds_count", "m"] == 2
    assert counted["token_gap_seconds_count", "m"] == 4


def test_several_choices_that_come_at_once_are_one_gap(server):
    step: Any = [Delta(0, choice, "x", 2) for choice in (0, 1)]
    last: Any = [Delta(0, choice, "x", 1, finish=FinishReason.STOP) for choice in (0, 1)]
    server.manager.scripts["m"] = Script(lambda request: [started(), step, step, last])
    assert httpx.post(server.url + CHAT, json={**BODY, "n": 2}).status_code == 200
    counted = samples(server)
    assert counted["generated_tokens_total", "m"] == 10
    assert counted["token_gap_seconds_count", "m"] == 2


def test_what_the_manager_knows(server):
    counted = samples(server)
    assert counted["running_requests", "org/model"] == 1
    assert counted["waiting_requests", "org/model"] == 0
    assert counted["model_memory_bytes", "org/model"] == 1000
    assert counted["kv_bytes", "org/model"] == 300
    assert counted["prefix_cache_bytes", "org/model"] == 200
    assert counted["memory_limit_bytes",] == 5000
    assert counted["worker_starts_total",] == 2
    assert counted["worker_crashes_total", "org/model"] == 1
    assert (counted["load_seconds_count", "org/model"], counted["load_seconds_sum", "org/model"]) == (1, 2.5)
    assert (counted["drafted_tokens_total", "org/model"], counted["accepted_tokens_total", "org/model"]) == (20, 15)


def test_clients_make_no_labels(server):
    for path in ("/a", "/b", "/v1/models/x", "/v1/models/y"):
        httpx.get(server.url + path)
    httpx.post(server.url + CHAT, json={**BODY, "model": "nowhere"})
    httpx.post(server.url + CHAT, json=BODY, headers={"origin": "http://evil.example"})
    counted = samples(server)
    assert counted["requests_total", "unmatched", "404"] == 2
    assert counted["requests_total", "/v1/models/{name:path}", "404"] == 2
    assert counted["requests_total", CHAT, "404"] == 1
    assert counted["requests_total", CHAT, "403"] == 1
    assert not any("nowhere" in key for key in counted)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves(server, stream):
    server.manager.scripts["m"] = Script(lambda request: [started(), *text("Hel", finish=None), Forever])
    connection = server.post({**BODY, "stream": stream})
    wait_until(lambda: server.manager.leases == 1)
    wait_until(lambda: ("generated_tokens_total", "m") in samples(server))
    connection.close()
    code = "200" if stream else "499"
    wait_until(lambda: ("requests_total", CHAT, code) in samples(server))


def families() -> dict[str, Any]:
    """As declared, with one model and one request."""
    manager: Any = FakeManager()
    metrics = Metrics(manager)
    return {family.name: family for family in metrics.registry.collect()}


def test_two_applications_share_nothing():
    first, second = families(), families()
    assert first.keys() == second.keys()
    assert len(first) > 20


def row(family: Any) -> str:
    name = family.name + ("_total" if family.type == "counter" else "")
    labels = {
        "requests": "`route`, `code`",
        "request_seconds": "`route`",
        "memory_limit_bytes": "",
        "worker_starts": "",
    }.get(family.name.removeprefix("mlx_server_"), "`model`")
    return f"| `{name}` | {family.type} | {labels} | {family.documentation} |"


def test_the_documentation_lists_them_all():
    table = (ROOT / "docs/metrics.md").read_text().split("| Metric | Type | Labels | Meaning |")[1].split("\n\n")[0]
    assert table.splitlines()[2:] == [row(family) for family in families().values()]


def test_the_dashboard_shows_what_exists():
    board = json.loads((ROOT / "contrib/grafana-dashboard.json").read_text())
    shown = {
        re.sub("_(bucket|count|sum|total)$", "", name)
        for panel in board["panels"]
        for target in panel["targets"]
        for name in re.findall(r"mlx_server_\w+", target["expr"])
    }
    assert shown == set(families()), "all of them, and no others"
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
