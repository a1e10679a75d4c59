"""Keys, host names and web pages, at every route."""

import asyncio
import re
import socket
from typing import Any

import anthropic
import httpx
import openai
import pytest

from mlx_server_nano.api.access import WebPages
from mlx_server_nano.config import Settings
from mlx_server_nano.errors import HostNotAllowedError, OriginNotAllowedError
from tests.api.conftest import read_all
from tests.api.fakes import Script
from tests.test_docs import routes

BODY = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
OPEN = {("GET", "/"), ("GET", "/health"), ("GET", "/docs"), ("GET", "/web/x")}
ROUTES = [(method, path.replace("{id}", "x")) for method, path in sorted(routes())]
CHAT = "/v1/chat/completions"


def code_of(response: httpx.Response, path: str) -> str:
    """Of an error, in the shape of the path's dialect."""
    body: dict[str, Any] = response.json()
    if path.startswith("/v1/messages"):
        assert body.keys() == {"type", "error", "request_id"}
        return str(body["error"]["type"])
    assert body["error"].keys() == {"message", "type", "param", "code"}
    return str(body["error"]["code"])


def test_every_route_but_health_and_the_pages_wants_a_key(start):
    server = start(api_key=("right",))
    wrong: list[dict[str, str]] = [{}, {"authorization": "Bearer wrong"}, {"x-api-key": "wrong"}]
    with httpx.Client(base_url=server.url) as client:
        for method, path in (*ROUTES, ("GET", "/docs"), ("GET", "/nope"), ("OPTIONS", CHAT), ("POST", "/")):
            for headers in wrong:
                response = client.request(method, path, headers=headers)
                if (method, path) in OPEN:
                    assert response.status_code in (200, 404)
                    continue
                assert response.status_code == 401, path
                assert response.headers["www-authenticate"] == "Bearer"
                assert code_of(response, path) in ("invalid_api_key", "authentication_error")
                assert "right" not in response.text
            for headers in ({"authorization": "Bearer right"}, {"x-api-key": "right"}):
                assert client.request(method, path, headers=headers).status_code != 401, path


def test_the_forms_of_a_key(start):
    server = start(api_key=("sésame", "second"), api_key_file=("third",))
    url = f"{server.url}/v1/models"
    right = [
        [(b"authorization", "Bearer sésame".encode())],
        [(b"authorization", "bearer   sésame".encode())],
        [(b"x-api-key", "sésame".encode())],
        [(b"x-api-key", b"second")],
        [(b"authorization", b"Bearer third")],
        [(b"authorization", b"Bearer unused"), (b"x-api-key", b"third")],
        [(b"authorization", b"Bearer third"), (b"x-api-key", b"unused")],
    ]
    for headers in right:
        assert httpx.get(url, headers=headers).status_code == 200
    wrong = [
        "Basic c2VzYW1l",
        "Bearer",
        "Bearer secon",
        "Bearer secondd",
        "second",
        "Bearer second,third",
        "Bearer \xff",
    ]
    for value in wrong:
        assert httpx.get(url, headers=[(b"authorization", value.encode("latin-1"))]).status_code == 401
    assert httpx.get(f"{url}?api_key=second&key=second").status_code == 401, "addresses stand in logs"
    with pytest.raises(openai.AuthenticationError):
        server.client(api_key="wrong").chat.completions.create(**BODY)
    assert server.client(api_key="second").models.list().data
    given: list[dict[str, Any]] = [{"api_key": "third"}, {"auth_token": "third"}]
    for options in given:
        with anthropic.Anthropic(base_url=server.url, max_retries=0, **options) as client:
            assert client.messages.count_tokens(model="m", messages=[{"role": "user", "content": "x"}])


def test_no_route_serves_pages_of_other_sites_or_under_other_names(server):
    foreign = (("origin", "https://evil.example"), ("origin", "null"), ("host", "evil.example:8000"))
    with httpx.Client(base_url=server.url) as client:
        for method, path in (*ROUTES, ("GET", "/nope"), ("OPTIONS", CHAT)):
            for name, value in foreign:
                response = client.request(method, path, headers={name: value})
                assert response.status_code == 403, path
                assert code_of(response, path) in (f"{name}_not_allowed", "permission_error")
                assert "access-control-allow-origin" not in response.headers
    assert server.manager.requests == []


HERE = ("127.0.0.1", 8000)
LAN = ("192.168.1.5", 8000)


def outcome(server: tuple[str, int] | None, headers: dict[str, str], **settings: Any) -> str:
    """What comes of a request: host or origin is refused, or it is let in."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        pass

    async def through(scope: Any) -> None:
        await WebPages(app, Settings(**settings))(scope, scope, scope)

    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    try:
        asyncio.run(through({"type": "http", "server": server, "headers": encoded}))
    except HostNotAllowedError:
        return "host"
    except OriginNotAllowedError:
        return "origin"
    return "in"


@pytest.mark.parametrize(
    ("server", "host", "expected"),
    [
        (HERE, "localhost", "in"),
        (HERE, "LocalHost.:8000", "in"),
        (HERE, "127.0.0.1:8000", "in"),
        (HERE, "0.0.0.0:8000", "in"),
        (HERE, "app.localhost:1", "in"),
        (HERE, "llm.example", "in"),
        (HERE, socket.gethostname(), "in"),
        (("::1", 8000), "[::1]:8000", "in"),
        (("::ffff:127.0.0.1", 8000), "evil.example", "host"),
        (HERE, "evil.example", "host"),
        (HERE, "localhost.evil.example", "host"),
        (HERE, "evillocalhost", "host"),
        (HERE, "x.llm.example", "host"),
        (HERE, "192.168.1.5:8000", "host"),
        (HERE, "localhost:8000@evil.example", "host"),
        (HERE, "[localhost]", "host"),
        (LAN, "evil.example", "in"),  # without an Origin: any client of a name that the operator's network gives
        (LAN, "192.168.1.5:8000", "in"),
        (None, "evil.example", "in"),
    ],
)
def test_host_names(server, host, expected):
    assert outcome(server, {"host": host}, allowed_host=("llm.example",)) == expected


@pytest.mark.parametrize(
    ("server", "host", "origin", "expected"),
    [
        (HERE, "localhost:8000", "http://localhost:8000", "in"),
        (HERE, "127.0.0.1:8000", "http://127.0.0.1:8000", "in"),
        (HERE, "localhost:8000", "http://localhost:3000", "origin"),
        (HERE, "localhost:8000", "http://127.0.0.1:8000", "origin"),
        (HERE, "localhost:8000", "https://evil.example", "origin"),
        (HERE, "localhost:8000", "https://chat.example", "in"),
        (HERE, "localhost:8000", "https://chat.example.evil", "origin"),
        (HERE, "localhost:8000", "http://chat.example", "origin"),
        (LAN, "192.168.1.5:8000", "http://192.168.1.5:8000", "in"),
        (LAN, "llm.example", "https://llm.example", "in"),
        (LAN, "evil.example:8000", "http://evil.example:8000", "origin"),  # a name that was pointed here
        (LAN, "evil.example:8000", "null", "origin"),
        (LAN, "evil.example:8000", "", "origin"),
    ],
)
def test_origins(server, host, origin, expected):
    settings = {"allowed_host": ("llm.example",), "cors_origin": ("https://chat.example",)}
    assert outcome(server, {"host": host, "origin": origin}, **settings) == expected


def test_a_key_protects_pages_under_any_name():
    headers = {"host": "box.lan:8000", "origin": "http://box.lan:8000"}
    assert outcome(LAN, headers, api_key=("k",)) == "in"
    assert outcome(HERE, headers, api_key=("k",)) == "host"
    assert outcome(HERE, headers, allowed_host=("*",)) == "in"
    assert outcome(HERE, {}, api_key=("k",)) == "in", "HTTP/1.0 has no Host, and no browser speaks it"


def test_cors_lets_the_named_pages_in(start):
    server = start(cors_origin=("https://chat.example",), api_key=("k",))
    asked = {
        "origin": "https://chat.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-os",
    }
    preflight = httpx.options(server.url + CHAT, headers=asked)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://chat.example"
    assert preflight.headers["access-control-allow-headers"] == asked["access-control-request-headers"]
    assert {"POST", "DELETE"} <= set(preflight.headers["access-control-allow-methods"].split(", "))
    assert httpx.options(server.url + CHAT, headers={**asked, "origin": "https://evil.example"}).status_code == 400
    origin = {"origin": "https://chat.example"}
    refused = httpx.post(server.url + CHAT, json=BODY, headers=origin)
    served = httpx.post(server.url + CHAT, json=BODY, headers={**origin, "x-api-key": "k"})
    streamed = httpx.post(server.url + CHAT, json={**BODY, "stream": True}, headers={**origin, "x-api-key": "k"})
    for response, status in ((refused, 401), (served, 200), (streamed, 200)):
        assert response.status_code == status
        assert response.headers["access-control-allow-origin"] == "https://chat.example"
        assert response.headers["vary"] == "Origin"
        assert "x-request-id" in response.headers["access-control-expose-headers"]
    assert "access-control-allow-origin" not in httpx.get(f"{server.url}/v1/models", headers={"x-api-key": "k"}).headers


def test_cors_for_all_pages(start):
    server = start(cors_origin=("*",))
    response = httpx.post(server.url + CHAT, json=BODY, headers={"origin": "https://any.example"})
    assert (response.status_code, response.headers["access-control-allow-origin"]) == (200, "*")


def test_what_a_page_may_send_without_asking_is_refused(server):
    """A form and `fetch` in its mode `no-cors`: no preflight, three content types or none; and an Origin."""
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None):
        headers = "origin: http://evil.example\r\n"
        headers += f"content-type: {content_type}\r\n" if content_type else ""
        assert read_all(server.post(BODY, headers=headers)).startswith(b"HTTP/1.1 403")
        if content_type:
            own = f"content-type: {content_type}\r\n"
            assert read_all(server.post(BODY, headers=own)).startswith(b"HTTP/1.1 415")
    assert server.manager.requests == []


def test_no_prompt_and_no_key_in_the_log(start, caplog):
    caplog.set_level("INFO")
    server = start(api_key=("secretkey",))
    server.manager.scripts["broken"] = Script(lambda request: [RuntimeError("secretprompt")])
    text = dict.fromkeys(("prompt", "input", "content", "secretprompt"), "secretprompt")
    body = {**text, "max_tokens": 9, "messages": [{"role": "user", "content": "secretprompt"}], "tokens": [1]}
    with httpx.Client(base_url=server.url, headers={"x-api-key": "secretkey"}) as client:
        for path in {path for method, path in ROUTES if method == "POST"}:
            for model in ("m", "broken", "secretprompt"):
                client.post(path, json={**body, "model": model})
                client.post(path, json={**body, "model": model, "stream": True})
            client.post(path, content=b'{"secretprompt')
            client.post(path, headers={"x-api-key": "secretkeyx"})
    assert "A request failed (RuntimeError)" in caplog.text
    assert not re.search("secretprompt|secretkey", caplog.text)
