"""What happens around a generation: clients that leave, silence, slow readers, shutdown. Raw sockets."""

import json
import socket
import threading

import pytest

from mlx_server_nano.chat.model import ChatModel
from mlx_server_nano.errors import ModelNotFoundError, WorkerDiedError
from mlx_server_nano.protocol import Delta
from tests.api.conftest import read_all, read_until, wait_until
from tests.api.fakes import Forever, Script, started, text

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
STREAM = {**BODY, "stream": True}


def chunked(response: bytes) -> bytes:
    """The body of a chunked response."""
    _, _, rest = response.partition(b"\r\n\r\n")
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        body += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    return body


@pytest.mark.parametrize("body", [BODY, STREAM])
def test_client_leaves_while_generating(server, body):
    server.manager.scripts["m"] = Script(lambda request: [started(), *text("Hel", finish=None), Forever])
    connection = server.post(body)
    wait_until(lambda: len(server.manager.requests) == 1)
    if "stream" in body:
        read_until(connection, b"Hel")
    connection.close()
    wait_until(lambda: len(server.manager.cancelled) == 1)
    wait_until(lambda: server.manager.leases == 0 and server.gate.idle)


@pytest.mark.parametrize("body", [BODY, STREAM])
def test_client_leaves_while_the_model_loads(server, body):
    server.manager.scripts["m"] = Script(opening=[Forever])
    connection = server.post(body)
    wait_until(lambda: server.manager.waiting == 1)
    connection.close()
    wait_until(lambda: server.manager.waiting == 0 and server.gate.idle)
    assert server.manager.requests == []


def test_client_that_only_stops_sending_is_gone(server):
    server.manager.scripts["m"] = Script(lambda request: [started(), Forever])
    with server.post(BODY) as connection:
        wait_until(lambda: len(server.manager.requests) == 1)
        connection.shutdown(socket.SHUT_WR)
        wait_until(lambda: len(server.manager.cancelled) == 1)


@pytest.mark.parametrize("sent", ["headers", "half the body"])
def test_half_sent_request(server, sent):
    connection = server.connect()
    part = b'{"model": ' if sent == "half the body" else b""
    connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n" + part)
    wait_until(lambda: not server.gate.idle)
    connection.close()
    wait_until(lambda: server.gate.idle)
    assert server.manager.requests == []


@pytest.mark.parametrize("body", [BODY, STREAM])
def test_a_request_that_is_long_in_the_making_holds_nobody_up(server, monkeypatch, body):
    """Such as one with a thousand tools, whose grammar must be written."""
    entered, others_served, bind = threading.Event(), threading.Event(), ChatModel.bind
    in_time = []

    def long(self, chat):
        entered.set()
        in_time.append(others_served.wait(60))
        return bind(self, chat)

    monkeypatch.setattr(ChatModel, "bind", long)
    server.manager.scripts["m"] = Script(lambda request: [started(), *text("Hello")])
    connection = server.post(body)
    assert entered.wait(60)
    with server.connect() as other:
        other.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        assert b"200 OK" in read_all(other)
    others_served.set()
    assert b"Hello" in read_all(connection)
    assert in_time == [True]


def test_stream_headers(server):
    head, _, _ = read_all(server.post(STREAM)).partition(b"\r\n\r\n")
    status, *lines = head.decode().lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert status == "http/1.1 200 ok"
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert "x-request-id" in headers


def test_every_write_holds_whole_events_and_all_that_is_pending(server):
    server.manager.scripts["m"] = Script(
        lambda request: [started(), [Delta(0, 0, letter, 1) for letter in "abc"], *text("d")]
    )
    _, _, rest = read_all(server.post(STREAM)).partition(b"\r\n\r\n")
    writes = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        writes.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    assert [write.count(b"data: ") for write in writes] == [4, 2, 1, 0]
    assert all(write.endswith(b"\n\n") for write in writes[:-1])


@pytest.mark.parametrize("silent", ["opening", "generation"])
def test_keep_alive_comments(start, silent):
    server = start(keepalive_interval=0.05)
    go_on = threading.Event()
    server.manager.scripts["m"] = (
        Script(opening=[go_on]) if silent == "opening" else Script(lambda request: [started(), go_on, *text("Hello")])
    )
    connection = server.post(STREAM)
    response = b""
    while response.count(b": keep-alive\n\n") < 3:
        response += connection.recv(65536)
    go_on.set()
    response += read_all(connection)
    assert response.startswith(b"HTTP/1.1 200")
    *parts, rest = chunked(response).decode().split("\n\n")
    assert rest == ""
    assert {part[:7] for part in parts} == {": keep-", "data: {", "data: ["}
    assert "Hel" in "".join(parts)


@pytest.mark.parametrize("error", [ModelNotFoundError("No such model.", param="model"), RuntimeError("secret")])
def test_error_after_a_keep_alive_is_in_the_stream(start, error):
    server = start(keepalive_interval=0.05)
    go_on = threading.Event()
    server.manager.scripts["m"] = Script(opening=[go_on, error])
    connection = server.post(STREAM)
    response = read_until(connection, b": keep-alive\n\n")
    go_on.set()
    response += read_all(connection)
    assert response.startswith(b"HTTP/1.1 200")
    *comments, last, rest = chunked(response).decode().split("\n\n")
    assert set(comments) == {": keep-alive"}
    assert rest == ""
    assert json.loads(last.removeprefix("data: "))["error"].keys() == {"message", "type", "param", "code"}
    assert b"secret" not in response


def test_whole_answers_wait_silently(start):
    server = start(keepalive_interval=0.05)
    go_on = threading.Event()
    server.manager.scripts["m"] = Script(opening=[go_on])
    silent, streamed = server.post(BODY), server.post(STREAM)
    read_until(streamed, b": keep-alive")
    go_on.set()
    head, _, body = read_all(silent).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert json.loads(body)["object"] == "chat.completion"
    read_all(streamed)


def test_no_done_after_an_error(server):
    server.manager.scripts["m"] = Script(
        lambda request: [started(), *text("a", finish=None), WorkerDiedError("The worker died.")]
    )
    response = read_all(server.post(STREAM))
    assert response.endswith(b"\r\n0\r\n\r\n"), "the response ends properly"
    assert b"[DONE]" not in response
    assert b'"code":"worker_died"' in response


def test_a_slow_reader_holds_nobody_up(server):
    server.manager.scripts["long"] = Script(
        lambda request: [started(), *text(*["x" * 65536] * 600, finish=None), *text("end")]
    )
    slow = server.post({**STREAM, "model": "long"})
    wait_until(lambda: server.manager.leases == 1)
    assert b"Hello" in read_all(server.post(BODY))
    assert server.manager.leases == 1, "39 MB don't fit into the sockets' buffers"
    byte_by_byte = b"".join(slow.recv(1) for _ in range(300))
    assert byte_by_byte.startswith(b"HTTP/1.1 200 OK\r\n") and b"data: " in byte_by_byte
    assert b"Hello" in read_all(server.post(BODY))
    assert server.manager.leases == 1
    assert read_all(slow).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


def test_slow_reader_that_leaves(server):
    server.manager.scripts["long"] = Script(
        lambda request: [started(), *text(*["x" * 65536] * 600, finish=None), *text("end")]
    )
    slow = server.post({**STREAM, "model": "long"})
    read_until(slow, b"xxx")
    slow.close()
    wait_until(lambda: len(server.manager.cancelled) == 1 and server.gate.idle)


def test_pipelined_and_reused_connections(server):
    with server.connect() as connection:
        data = json.dumps(STREAM).encode()
        request = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n%b" % (
            len(data),
            data,
        )
        connection.sendall(request + request)
        first_two = b""
        while first_two.count(b"[DONE]\n\n\r\n0\r\n\r\n") < 2:
            first_two += connection.recv(65536)
        connection.sendall(request)
        assert read_until(connection, b"[DONE]").startswith(b"HTTP/1.1 200")


def test_interrupted_by_shutdown(start):
    server = start()
    server.manager.scripts["m"] = Script(lambda request: [started(), *text("Hel", finish=None), Forever])
    server.manager.scripts["loading"] = Script(opening=[Forever])
    stream = server.post(STREAM)
    read_until(stream, b"Hel")
    whole = server.post(BODY)
    loading = server.post({**STREAM, "model": "loading"})
    half = server.connect()
    half.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{")
    wait_until(lambda: len(server.manager.requests) == 2 and server.manager.waiting == 1)
    wait_until(lambda: len(server.gate._inside) == 4)
    server.gate.drain()
    server.server._deadline = 0.0
    rest = read_all(stream)
    assert b'data: {"error":{' in rest
    assert b'"code":"unavailable"' in rest
    assert b"[DONE]" not in rest
    for connection in (whole, loading, half):
        assert read_all(connection).startswith(b"HTTP/1.1 503")
    assert len(server.manager.cancelled) == 2
