"""Signals, on a real process; addresses."""

import contextlib
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from mlx_server_nano.cli.server import is_loopback, listen, url

ROOT = Path(__file__).parents[2]
BODY = {"messages": [{"role": "user", "content": "hi"}], "stream": True}


class Process:
    def __init__(self, shutdown_timeout: float, folder: Path) -> None:
        command = [sys.executable, "-m", "tests.cli.fake_server", str(shutdown_timeout), str(folder)]
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", 'ulimit -S -n 256; exec "$@"', "sh", *command],  # as macOS starts processes
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        line = self._process.stderr.readline()
        ready = re.search(r"INFO .* Ready at (http://127\.0\.0\.1:\d+)$", line.strip())
        assert ready, line
        self.url = ready[1]
        self.client = httpx.Client(base_url=self.url)
        self._streams: list[Stream] = []  # kept, as the connection ends with one

    def stream(self, model: str) -> "Stream":
        self._streams.append(Stream(self.client, model))
        return self._streams[-1]

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Exit code and what was on stderr, the access log aside."""
        _, rest = self._process.communicate(timeout=60)
        lines = rest.splitlines(keepends=True)
        return self._process.returncode, "".join(line for line in lines if "mlx_server_nano.access" not in line)

    def close(self) -> None:
        self.client.close()
        self._process.kill()
        self._process.communicate()


class Stream:
    """A streamed answer, read up to its first text."""

    def __init__(self, client: httpx.Client, model: str) -> None:
        self._context = client.stream("POST", "/v1/chat/completions", json={**BODY, "model": model})
        self._lines = self._context.__enter__().iter_lines()
        while "Hel" not in next(self._lines):
            pass

    def rest(self) -> str:
        text = "\n".join(self._lines)
        self._context.__exit__(None, None, None)
        return text


@pytest.fixture
def launch(tmp_path):
    processes = []

    def launch(shutdown_timeout: float = 60) -> Process:
        processes.append(Process(shutdown_timeout, tmp_path))
        return processes[-1]

    yield launch
    for process in processes:
        process.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_server(launch, number):
    process = launch()
    assert process.client.get("/health").status_code == 200  # leaves an idle connection open
    process.signal(number)
    assert process.end() == (0, "manager closed\n")


def test_running_requests_finish(launch):
    process = launch()
    stream = process.stream("held")
    process.signal(signal.SIGTERM)
    while (health := process.client.get("/health")).status_code == 200:
        pass
    assert health.json()["status"] == "draining"
    refused = process.client.post("/v1/chat/completions", json={**BODY, "model": "m"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "unavailable")
    assert "retry-after" in refused.headers
    process.signal(signal.SIGUSR1)
    rest = stream.rest()
    assert '"content":"lo"' in rest
    assert rest.rstrip().endswith("data: [DONE]")
    assert process.end() == (0, "manager closed\n")


def test_those_that_run_too_long_are_told(launch):
    process = launch(shutdown_timeout=0.1)
    stream = process.stream("forever")
    process.signal(signal.SIGTERM)
    rest = stream.rest()
    assert '"code":"unavailable"' in rest
    assert "[DONE]" not in rest
    assert process.end() == (0, "manager closed\n")


def test_a_second_signal_exits_at_once(launch):
    process = launch()
    process.stream("forever")
    process.signal(signal.SIGINT)
    while process.client.get("/health").status_code == 200:
        pass
    process.signal(signal.SIGINT)
    code, rest = process.end()
    assert code == 128 + signal.SIGINT
    assert "manager closed" not in rest


def test_a_thousand_idle_connections(launch):
    """Some of them have sent half of a request. Others are answered."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] != resource.RLIM_INFINITY and limits[1] < 2000:
        pytest.skip("this system gives no process 2,000 descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], 2000), limits[1]))
    process = launch()
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        address = (httpx.URL(process.url).host, httpx.URL(process.url).port)
        for number in range(1000):
            idle = stack.enter_context(socket.create_connection(address, timeout=60))
            if number % 3 == 0:
                idle.sendall(
                    b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99\r\n\r\n{"[
                        number % 7 :
                    ]
                )
        with httpx.Client(base_url=process.url) as client:  # on a connection of its own
            assert client.get("/health").status_code == 200
            assert client.post("/v1/chat/completions", json={**BODY, "model": "m"}).status_code == 200
    process.signal(signal.SIGTERM)
    assert process.end()[0] == 0


def test_addresses():
    with listen("localhost", 0) as listener:
        assert is_loopback(listener)
        port = listener.getsockname()[1]
        assert url(listener) == f"http://127.0.0.1:{port}"
        with pytest.raises(OSError, match="in use"):
            listen("127.0.0.1", port)
    with listen("0.0.0.0", 0) as listener:
        assert not is_loopback(listener)
        assert url(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(socket.gaierror):
        listen("host.invalid", 0)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_ipv6_addresses():
    with listen("::", 0) as listener:
        port = listener.getsockname()[1]
        assert not is_loopback(listener)
        assert url(listener) == f"http://[::1]:{port}"
        socket.create_connection(("127.0.0.1", port), timeout=60).close()
