"""The access log."""

from __future__ import annotations

import json
import logging
from typing import Any

import httpx

from mlx_server_nano.errors import WorkerDiedError
from mlx_server_nano.logs import JsonFormatter
from tests.api.conftest import read_all, wait_until
from tests.api.fakes import Forever, Script, started, text

CHAT = "/v1/chat/completions"
BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def lines(caplog: Any, count: int) -> list[dict[str, Any]]:
    """Waits for that many; the last one comes after its answer."""

    def found() -> list[dict[str, Any]]:
        return [record.fields for record in list(caplog.records) if record.name == "mlx_server_nano.access"]

    wait_until(lambda: len(found()) >= count)
    assert len(found()) == count
    return found()


def test_one_line_for_each_request(server, caplog):
    caplog.set_level(logging.INFO)
    server.manager.scripts["m"] = Script(lambda request: [started(7, 3), *text("a", "b", "c")])
    for stream in (False, True):
        httpx.post(server.url + CHAT, json={**BODY, "stream": stream}, headers={"x-request-id": "mine"})
    httpx.get(f"{server.url}/v1/models/nowhere")
    httpx.get(f"{server.url}/nope/secret?key=secret")
    httpx.get(f"{server.url}/health")
    httpx.get(f"{server.url}/metrics")
    *served, unknown, nowhere = lines(caplog, 4)
    for line in served:
        assert line["request_id"] == "mine"
        assert (line["method"], line["route"], line["code"], line["model"]) == ("POST", CHAT, 200, "m")
        assert (line["prompt_tokens"], line["cached_tokens"], line["completion_tokens"]) == (7, 3, 3)
        assert 0 <= line["queue"] <= line["first_token"] <= line["total"]
        assert line["tokens_per_second"] > 0
        assert not {"error", "client_gone"} & line.keys()
    assert (unknown["route"], unknown["code"], unknown["error"]) == ("/v1/models/{name:path}", 404, "model_not_found")
    assert (nowhere["route"], nowhere["code"], nowhere["error"]) == ("unmatched", 404, "not_found")
    assert nowhere["request_id"].startswith("req_")
    assert nowhere.keys() == {"method", "route", "code", "request_id", "total", "error"}
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("mlx_server_nano")]
    assert not any("secret" in message for message in ours)


def test_failures_and_clients_that_leave(server, caplog):
    caplog.set_level(logging.INFO)
    server.manager.scripts["m"] = Script(lambda request: [started(), *text("a", finish=None), WorkerDiedError("gone")])
    read_all(server.post({**BODY, "stream": True}))
    server.manager.scripts["m"] = Script(lambda request: [started(), Forever])
    connection = server.post(BODY)
    wait_until(lambda: server.manager.leases == 1)
    connection.close()
    failed, left = lines(caplog, 2)
    assert (failed["code"], failed["error"], failed["completion_tokens"]) == (200, "worker_died", 1)
    assert (left["code"], left["client_gone"]) == (499, True)


def test_json_lines():
    def line(**more: Any) -> dict[str, Any]:
        record = logging.LogRecord("n", logging.WARNING, "", 0, "It is %s", ("fine",), None)
        record.__dict__.update(more)
        formatted = JsonFormatter().format(record)
        assert "\n" not in formatted
        read: dict[str, Any] = json.loads(formatted)
        return read

    assert line()["message"] == "It is fine"
    assert line().keys() == {"time", "level", "logger", "pid", "message"}
    assert line(fields={"code": 200}).keys() == {"time", "level", "logger", "pid", "code"}
    try:
        raise ValueError("a\nb")
    except ValueError as error:
        told = line(exc_info=(ValueError, error, error.__traceback__))
    assert told["exception"].endswith("ValueError: a\nb")
