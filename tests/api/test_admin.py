"""The admin endpoints, with a scripted manager. tests/models/test_manager.py has what loading and unloading do."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from mlx_server_nano import __version__
from mlx_server_nano.errors import HubUnavailableError
from mlx_server_nano.protocol import Device
from tests.api.conftest import Running, wait_until
from tests.api.fakes import Forever, Script, started, text


def post(server: Running, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/admin/{path}", json=body)


def events(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"].startswith("text/event-stream")
    *blocks, end = response.text.split("\n\n")
    assert end == ""
    return [json.loads(block.removeprefix("data: ")) for block in blocks if not block.startswith(":")]


def test_status(server: Running) -> None:
    server.manager.scripts["org/model"] = Script(lambda request: [started(7, 3), *text("a", "b")])
    server.manager.device = Device(name="A chip", backend="metal", memory_bytes=1)
    body = {"model": "org/model", "messages": [{"role": "user", "content": "hi"}]}
    assert httpx.post(f"{server.url}/v1/chat/completions", json=body).status_code == 200
    told = httpx.get(f"{server.url}/admin/status").json()
    first, _, coming = told.pop("models")
    assert told.pop("uptime_seconds") >= 0
    assert told == {
        "version": __version__,
        "status": "healthy",
        "reason": None,
        "device": "A chip",
        "memory": {"limit_bytes": 5000, "used_bytes": 3000},
    }
    assert first == {
        "id": "org/model",
        "state": "ready",
        "progress": 1.0,
        "running": 1,
        "waiting": 0,
        "memory_bytes": 1000,
        "kv_bytes": 300,
        "prefix_cache_bytes": 200,
        "pinned": False,
        "context_length": 100,
        "idle_seconds_left": None,
        "loaded_since": 1700000001.5,
        "prompt_tokens": 7,
        "cached_tokens": 3,
        "generated_tokens": 2,
    }
    assert (coming["state"], coming["context_length"], coming["generated_tokens"]) == ("loading", None, 0)


def test_a_problem_is_told(server: Running) -> None:
    server.manager.problem = "MLX is missing."
    told = httpx.get(f"{server.url}/admin/status").json()
    assert (told["status"], told["reason"], told["device"]) == ("unhealthy", "MLX is missing.", None)


def test_a_load_is_told_once_for_each_change(server: Running) -> None:
    server.manager.scripts["m"] = Script(opening=[[], [], []])
    assert [(event["model"], event["state"]) for event in events(post(server, "load", model="m"))] == [
        ("m", "downloading"),
        ("m", "loading"),
        ("m", "ready"),
    ]


def test_a_load_that_fails(server: Running) -> None:
    server.manager.scripts["m"] = Script(opening=[HubUnavailableError("The Hub is away.")])
    first, last = events(post(server, "load", model="m"))
    assert first["state"] == "downloading"
    assert last == {
        "error": {"message": "The Hub is away.", "type": "server_error", "param": None, "code": "hub_unavailable"}
    }
    assert post(server, "load", model="no").status_code == 404


def test_who_leaves_a_load_is_forgotten(server: Running) -> None:
    server.manager.scripts["m"] = Script(opening=[Forever])
    with httpx.stream("POST", f"{server.url}/admin/load", json={"model": "m"}) as response:
        lines = response.iter_lines()  # kept, as the connection ends with it
        assert "downloading" in next(lines)
        assert not server.gate.idle
    wait_until(lambda: server.gate.idle)


def test_unload(server: Running) -> None:
    response = post(server, "unload", model="m")
    assert (response.status_code, response.json()["error"]["code"]) == (409, "model_in_use")
    assert post(server, "unload", model="m", force=True).json() == {"model": "m", "unloaded": True}
    assert post(server, "unload", model="no").status_code == 404


@pytest.mark.parametrize("path", ["load", "unload"])
def test_a_field_that_there_is_not(server: Running, path: str) -> None:
    response = post(server, path, model="m", forse=True)
    assert response.status_code == 400 and "forse" in response.text
