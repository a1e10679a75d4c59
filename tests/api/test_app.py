"""Every endpoint but the generating ones, and what surrounds them all."""

import json
from typing import Any

import anthropic
import httpx
import pytest

from tests.api.conftest import read_all, read_until, wait_until
from tests.api.fakes import Forever, Script, started

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error: dict[str, Any] = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    return error


def test_models(server, validate):
    body = httpx.get(f"{server.url}/v1/models").json()
    validate(body, "ListModelsResponse")
    assert body["data"] == [
        {"id": "org/model", "object": "model", "created": 1700000000, "owned_by": "org"},
        {"id": "alias", "object": "model", "created": 1700000001, "owned_by": "org", "alias_of": "org/model"},
        {"id": "/models/local", "object": "model", "created": 1700000001, "owned_by": "local"},
    ]
    assert [model.id for model in server.client().models.list()] == ["org/model", "alias", "/models/local"]


@pytest.mark.parametrize(("name", "owner"), [("org/model", "org"), ("/models/local", "local")])
def test_one_model(server, validate, name, owner):
    response = httpx.get(f"{server.url}/v1/models/{name}")
    validate(response.json(), "Model")
    model = server.client().models.retrieve(name)
    assert (model.id, model.created, model.owned_by) == (name, 1700000000, owner)


@pytest.mark.parametrize("name", ["org/nowhere", "org/elsewhere", "org/unsupported", "x%00y"])
def test_no_such_model(server, name):
    error = error_of(httpx.get(f"{server.url}/v1/models/{name}"), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")


def test_health(server):
    response = httpx.get(f"{server.url}/health")
    assert response.status_code == 200
    assert response.json()["status"] == "healthy"
    first = {"id": "org/model", "state": "ready", "running": 1, "memory_bytes": 1000}
    assert response.json()["models"][0] == first
    assert [model["state"] for model in response.json()["models"]] == ["ready", "ready", "loading"]
    server.manager.problem = "MLX is missing."
    response = httpx.get(f"{server.url}/health")
    assert response.status_code == 503
    assert (response.json()["status"], response.json()["reason"]) == ("unhealthy", "MLX is missing.")


def test_anthropics_clients_get_their_errors_for_models_too(server):
    given = {"base_url": server.url, "api_key": "x", "max_retries": 0}
    with anthropic.Anthropic(**given) as client, pytest.raises(anthropic.NotFoundError) as caught:
        client.models.retrieve("none")
    assert caught.value.response.json()["error"]["type"] == "not_found_error"
    assert caught.value.request_id == caught.value.response.headers["x-request-id"]


def test_draining(start):
    server = start()
    server.manager.scripts["m"] = Script(lambda request: [started(), Forever])
    connection = server.post({**BODY, "stream": True})
    wait_until(lambda: server.manager.leases == 1)
    server.gate.drain()
    health = httpx.get(f"{server.url}/health")
    assert (health.status_code, health.json()["status"]) == (503, "draining")
    for response in (httpx.post(f"{server.url}/v1/chat/completions", json=BODY), httpx.get(f"{server.url}/v1/models")):
        assert error_of(response, 503)["code"] == "unavailable"
        assert int(response.headers["retry-after"]) >= 1
    connection.close()


def test_root(server):
    body = httpx.get(server.url).json()
    assert body["name"] == "mlx-server-nano"
    head = httpx.head(server.url)
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1"), ("POST", "/nope"), ("GET", "/v1/chat/completions/"), ("GET", "/v1//models")]
)
def test_unknown_path(server, method, path):
    assert error_of(httpx.request(method, server.url + path), 404)["code"] == "not_found"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("OPTIONS", "/v1/chat/completions", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("DELETE", "/v1/models/org/model", "GET, HEAD"),
        ("POST", "/", "GET, HEAD"),
        ("PUT", "/health", "GET, HEAD"),
    ],
)
def test_wrong_method(server, method, path, allowed):
    response = httpx.request(method, server.url + path)
    error_of(response, 405)
    assert response.headers["allow"] == allowed


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8", None])
def test_content_types(server, content_type):
    headers = {} if content_type is None else {"content-type": content_type}
    data = json.dumps(BODY).encode()
    assert httpx.post(f"{server.url}/v1/chat/completions", content=data, headers=headers).status_code == 200


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_wrong_content_type(server, content_type):
    response = httpx.post(
        f"{server.url}/v1/chat/completions", content=json.dumps(BODY).encode(), headers={"content-type": content_type}
    )
    error_of(response, 415)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"1",
        b"{'a': 1}",
        b'{"model": "\xff"}',
        b"\xff\xfe{\x00}\x00",
        b"[" * 100_000,
        b"{}",
    ],
)
def test_bad_bodies(server, body):
    assert (
        error_of(httpx.post(f"{server.url}/v1/chat/completions", content=body), 400)["type"] == "invalid_request_error"
    )


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": BODY["messages"]}),
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/embeddings", {"input": "hi"}),
        ("/v1/responses", {"input": "hi"}),
        ("/v1/responses/input_tokens", {"input": "hi"}),
        ("/v1/messages", {"max_tokens": 1, "messages": BODY["messages"]}),
        ("/v1/messages/count_tokens", {"messages": BODY["messages"]}),
    ],
)
@pytest.mark.parametrize("model", [{}, {"model": ""}, {"model": None}])
def test_a_model_must_be_named(server, path, body, model):
    response = httpx.post(f"{server.url}{path}", json={**body, **model})
    assert response.status_code == 400
    message = response.json()["error"]["message"]
    assert "`model`" in message and "GET /v1/models" in message


def test_body_limit(start):
    server = start(max_body=1000)
    too_large = b" " * 1001
    url = f"{server.url}/v1/chat/completions"
    error_of(httpx.post(url, content=too_large), 413)
    error_of(httpx.post(url, content=iter([too_large[:600], too_large[600:]])), 413)
    assert httpx.post(url, content=json.dumps(BODY).encode().ljust(1000)).status_code == 200
    with server.connect() as connection:  # told beforehand: refused without waiting for it
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1001\r\n\r\n")
        assert read_until(connection, b"\r\n").startswith(b"HTTP/1.1 413")


def test_malformed_http(server):
    with server.connect() as connection:
        connection.sendall(b"NONSENSE\r\n\r\n")
        assert read_all(connection).startswith(b"HTTP/1.1 400")
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_request_id(server):
    url = f"{server.url}/health"
    assert httpx.get(url, headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    ours = {
        httpx.get(url, headers=headers).headers["x-request-id"]
        for headers in ({}, {"x-request-id": "a b"}, {"x-request-id": "x" * 200})
    }
    assert len(ours) == 3
    assert all(request_id.startswith("req_") for request_id in ours)
    assert "x-request-id" in httpx.get(f"{server.url}/nope").headers


def test_a_fault_of_ours_leaks_nothing(server, caplog, monkeypatch):
    monkeypatch.setattr(server.manager, "status", lambda: 1 / 0)
    error = error_of(httpx.get(f"{server.url}/health"), 500)
    assert (error["type"], error["param"], error["code"]) == ("server_error", None, None)
    assert "zero" not in error["message"]
    assert "ZeroDivisionError" in caplog.text
    assert "by zero" not in caplog.text, "what it says may quote a request"
