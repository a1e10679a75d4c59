from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from mlx_server_nano.cli.client import Client, RefusedError, UnreachableError
from mlx_server_nano.config import Connection

Answer = Callable[[bytes], Client]


@pytest.fixture
def answer() -> Iterator[Answer]:
    """A client of a server that answers one request with these bytes, and closes the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads: list[threading.Thread] = []

        def serve(data: bytes) -> None:
            link, _ = listener.accept()
            with link, link.makefile("rb") as request:
                head = dict(line.lower().split(b": ") for line in iter(request.readline, b"\r\n") if b": " in line)
                request.read(int(head.get(b"content-length", 0)))  # what is unread would reset the connection
                link.sendall(data)

        def answer(data: bytes) -> Client:
            threads.append(threading.Thread(target=serve, args=(data,)))
            threads[-1].start()
            return Client(Connection(f"http://127.0.0.1:{listener.getsockname()[1]}"))

        yield answer
        for thread in threads:
            thread.join(60)


OK = b"HTTP/1.1 200 OK\r\n\r\n"


def test_events(answer: Answer) -> None:
    client = answer(OK + b': keep-alive\n\nevent: x\ndata: {"a": 1}\n\ndata: 2\n\ndata: [DONE]\n\n')
    assert list(client.stream("/x", {})) == [{"a": 1}, 2]


def test_an_error_in_mid_stream(answer: Answer) -> None:
    events = answer(OK + b'data: 1\n\ndata: {"error": {"message": "No more."}}\n\n').stream("/x", {})
    assert next(events) == 1
    with pytest.raises(RefusedError, match=r"No more\."):
        next(events)


def test_leaving_a_stream_closes_its_connection(answer: Answer) -> None:
    with closing(answer(OK + b"data: 1\n\ndata: 2\n\n").stream("/x", {})) as events:  # type: ignore[type-var]
        assert next(events) == 1


@pytest.mark.parametrize("data", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"])
def test_what_is_no_answer(answer: Answer, data: bytes) -> None:
    with pytest.raises(UnreachableError, match="no server answers"):
        answer(data).get("/x")


def test_another_server(answer: Answer) -> None:
    with pytest.raises(RefusedError, match="answered 404: it is no MLX Server Nano") as caught:
        answer(b"HTTP/1.1 404 Not Found\r\n\r\nwhat?").get("/x")
    assert caught.value.status == 404
