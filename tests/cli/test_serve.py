"""The served process: what it says, what it imports, and how it restarts."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

SOURCE = Path(__file__).parents[2] / "src"


class Process:
    def __init__(self, *args: str, source: Path = SOURCE, python: tuple[str, ...] = (), **environment: str) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLX_", "HF_"))}
        command = [sys.executable, *python, "-m", "mlx_server_nano", "--port", "0", "--no-spare-worker", *args]
        self._process = subprocess.Popen(
            command, env={**clean, "PYTHONPATH": str(source), **environment}, stderr=subprocess.PIPE, text=True
        )

    def lines_until(self, needle: str) -> list[str]:
        """What it writes up to the line with the needle."""
        assert self._process.stderr is not None
        lines = []
        for line in self._process.stderr:
            lines.append(line.rstrip("\n"))
            if needle in line:
                return lines
        raise AssertionError("\n".join(lines))

    def end(self, number: int = signal.SIGTERM) -> int:
        self._process.send_signal(number)
        self._process.communicate(timeout=60)
        return self._process.returncode

    def rest(self) -> str:
        """Ends it; what else it wrote."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.communicate(timeout=60)[1]

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def launch():
    processes: list[Process] = []

    def launch(*args: str, **options) -> Process:
        processes.append(Process(*args, **options))
        return processes[-1]

    yield launch
    for process in processes:
        process.kill()


def test_one_line_when_ready_and_then_examples(launch, tmp_path):
    process = launch("--host", "127.0.0.1", HF_HOME=str(tmp_path))
    (line,) = process.lines_until("Ready at ")
    url = line.rpartition(" ")[2]
    assert f"curl {url}/v1/chat/completions" in "\n".join(process.lines_until("print(answer"))
    assert httpx.get(f"{url}/health").json() == {"status": "healthy", "models": []}
    assert [model["id"] for model in httpx.get(f"{url}/v1/models").json()["data"]] == ["demo"]
    assert process.end() == 0


def test_a_key_is_not_shown(launch, tmp_path):
    process = launch("--host", "127.0.0.1", "--api-key", "s3cret", HF_HOME=str(tmp_path))
    text = "\n".join(process.lines_until("print(answer"))
    assert "YOUR_KEY" in text and "s3cret" not in text
    assert process.end() == 0


def test_without_the_demo_models_files(launch, tmp_path):
    shutil.copytree(SOURCE, tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "demo"))
    process = launch("--host", "127.0.0.1", source=tmp_path / "src", HF_HOME=str(tmp_path))
    warning, ready = process.lines_until("Ready at ")
    assert " WARNING " in warning and "demo" in warning and "training/README.md" in warning
    url = ready.rpartition(" ")[2]
    assert httpx.get(f"{url}/v1/models").json() == {"object": "list", "data": []}
    body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}
    refused = httpx.post(f"{url}/v1/chat/completions", json=body)
    assert refused.status_code == 404 and "missing" in refused.json()["error"]["message"]
    assert "curl" not in process.rest(), "no examples"


@pytest.mark.parametrize(("args", "warned"), [([], True), (["--api-key", "x"], False)])
def test_open_to_the_network_without_a_key(launch, tmp_path, args, warned):
    process = launch("--host", "0.0.0.0", *args, HF_HOME=str(tmp_path))
    *warnings, ready = process.lines_until("Ready at ")
    assert "http://127.0.0.1:" in ready
    assert [" WARNING " in line and "API key" in line for line in warnings] == ([True] if warned else [])
    assert process.end() == 0


@pytest.mark.parametrize(
    ("host", "args", "allowed"),
    [
        ("127.0.0.1", [], True),
        ("0.0.0.0", [], False),
        ("127.0.0.1", ["--no-local-paths"], False),
        ("0.0.0.0", ["--local-paths"], True),
    ],
)
def test_folders_as_models_follow_the_address(launch, tmp_path, host, args, allowed):
    process = launch("--host", host, *args, HF_HOME=str(tmp_path))
    url = process.lines_until("Ready at ")[-1].rpartition(" ")[2]
    refused = httpx.get(f"{url}/v1/models/{tmp_path}").json()["error"]["message"]
    assert ("does not load models by path" in refused) is not allowed
    assert process.end() == 0


def test_settings_come_from_the_environment_too(launch, tmp_path):
    process = launch(MLX_SERVER_HOST="127.0.0.1", MLX_LOG_LEVEL="debug", HF_HOME=str(tmp_path))
    url = process.lines_until("Ready at ")[-1].rpartition(" ")[2]
    httpx.get(f"{url}/v1/nothing")
    assert "method=GET route=unmatched code=404" in process.lines_until("mlx_server_nano.access")[-1]
    assert process.end() == 0


def test_json_lines(launch, tmp_path):
    process = launch("--host", "127.0.0.1", "--log-format", "json", HF_HOME=str(tmp_path))
    (line,) = process.lines_until("Ready at ")
    httpx.get(f"{json.loads(line)['message'].rpartition(' ')[2]}/v1/models")
    told = json.loads(process.lines_until("access")[-1])
    assert (told["route"], told["code"], told["level"]) == ("/v1/models", 200, "INFO")
    assert process.end() == 0


def test_ready_without_the_heavy_imports(launch, tmp_path):
    process = launch("--host", "127.0.0.1", python=("-X", "importtime"), HF_HOME=str(tmp_path))
    imported = {line.rpartition("|")[2].strip() for line in process.lines_until("Ready at ")}
    assert {"starlette.routing", "uvicorn"} <= imported
    assert not imported & {"mlx", "mlx.core", "mlx_lm", "transformers", "tokenizers", "huggingface_hub"}
    assert process.end() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_reload(launch, tmp_path, number):
    shutil.copytree(SOURCE, tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    process = launch("--host", "127.0.0.1", "--reload", source=tmp_path / "src", HF_HOME=str(tmp_path))
    url = process.lines_until("Ready at ")[-1].rpartition(" ")[2]
    file = tmp_path / "src/mlx_server_nano/errors.py"
    seen = threading.Event()

    def touch() -> None:
        """Once, or again if the server was so slow that its first look at the files, which only takes note of their times, came
        after that. Not soon, as another change would be another restart."""
        for second in itertools.count(2_000_000_000):
            os.utime(file, (second, second))
            if seen.wait(20):
                return

    toucher = threading.Thread(target=touch, daemon=True)
    toucher.start()
    process.lines_until("detected changes")
    seen.set()
    toucher.join()
    process.lines_until("Ready at ")
    assert httpx.get(f"{url}/health").status_code == 200, "on the same port"
    assert process.end(number) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")
