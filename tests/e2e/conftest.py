"""The installed server as a process, with a stand-in for the Hub and tiny models."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from tests.hub_standin import HubStandin
from tests.tiny_models import assets, make_model

PATIENCE = 150.0  # seconds, to end what hangs; on a busy machine a worker may take thirty to start
QWEN = "mlx-community/Tiny-Qwen3-4bit"
HELLO = [{"role": "user", "content": "Hello there."}]
# Long enough to be caught in the middle: no end-of-sequence token.
LONG: dict[str, Any] = {
    "model": QWEN,
    "messages": HELLO,
    "max_tokens": 4000,
    "temperature": 0,
    "stream": True,
    "logit_bias": {"3258": -100},
}

FAULTY = '''
import os
import time
from pathlib import Path

import mlx.core as mx
from mlx_lm.models import qwen3
from mlx_lm.models.qwen3 import ModelArgs

FOLDER = Path(__file__).parent

def pause(phase):
    """Wait to be killed, if the file `pauses` names this phase; the file `paused` tells by what process id."""
    pauses = FOLDER / "pauses"
    if pauses.exists() and pauses.read_text() == phase:
        (FOLDER / "half").write_text(str(os.getpid()))
        (FOLDER / "half").rename(FOLDER / "paused")
        time.sleep(600)

class Model(qwen3.Model):
    """Fails on one token, takes the process down on another, pauses on a third."""

    def __init__(self, args):
        super().__init__(args)
        pause("load")

    def __call__(self, inputs, cache=None):
        if (inputs == {pauses}).any().item():
            pause("prefill" if inputs.shape[1] > 1 else "decode")
        if (inputs == {raises}).any().item():
            raise RuntimeError("a kernel failed")
        if (inputs == {aborts}).any().item():
            os.abort()
        return super().__call__(inputs, cache)
'''


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


class ServerProcess:
    """`mlx-server-nano` on a free port. `log` is what it wrote to stderr."""

    def __init__(self, environment: dict[str, str], *flags: str) -> None:
        script = Path(sys.executable).with_name("mlx-server-nano")
        self.process = subprocess.Popen(
            [str(script), "--host", "127.0.0.1", "--port", "0", *flags],
            env={**os.environ, **environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self._seen: set[psutil.Process] = set()
        try:
            wait_until(lambda: self.url is not None or self.process.poll() is not None)
        except AssertionError:
            self.process.kill()
        if self.url is None:
            self.end()
            raise AssertionError("\n".join(self.log))

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line.rstrip())

    @property
    def url(self) -> str | None:
        found = [match[0] for line in list(self.log) if (match := re.search(r"http://127\.0\.0\.1:\d+", line))]
        return found[0] if found else None

    def children(self) -> list[psutil.Process]:
        found = psutil.Process(self.process.pid).children(recursive=True)
        self._seen |= set(found)
        return found

    @cached_property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="x", max_retries=0, timeout=PATIENCE)

    def health(self) -> dict[str, Any]:
        body: dict[str, Any] = httpx.get(f"{self.url}/health", timeout=PATIENCE).json()
        return body

    def running(self) -> int:
        return sum(model["running"] for model in self.health()["models"])

    def signal(self, number: int) -> None:
        self.children()
        self.process.send_signal(number)

    def end(self) -> int:
        """Wait for the exit; nothing may be left over. Returns the exit code."""
        code = self.process.wait(PATIENCE)
        if "client" in self.__dict__:
            self.client.close()
        _, left = psutil.wait_procs(list(self._seen), timeout=PATIENCE)  # a worker that still imports ends after that
        assert not left, left
        self._reader.join(PATIENCE)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code

    def stop(self) -> int:
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.end()


@contextlib.contextmanager
def stream(server: ServerProcess, body: dict[str, Any] = LONG) -> Iterator[Iterator[str]]:
    """The events of a chat's answer, without the comments that come while a model loads."""
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=PATIENCE) as response:
        yield (line for line in response.iter_lines() if line.startswith("data: "))


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubStandin]:
    assets()
    folder = tmp_path_factory.mktemp("hub")
    with HubStandin() as hub:
        hub.add(QWEN, make_model(folder / "qwen3", "qwen3", bits=4, dtype="bfloat16", shards=2))
        hub.add(
            "mlx-community/Tiny-Llama-bf16",
            make_model(folder / "llama", "llama", "mini-dense-llama-3.1", dtype="bfloat16"),
        )
        hub.add("someone/Gated", folder / "qwen3", status=403, code="GatedRepo", message="Ask for access.")
        yield hub


@pytest.fixture(scope="session")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that brings code: `<|fim_pad|>` in its prompt makes a forward pass fail, `<|repo_name|>` aborts the process,
    and at `<|fim_middle|>` it waits where the file `pauses` says so."""
    assets()
    from transformers import AutoTokenizer

    folder = make_model(tmp_path_factory.mktemp("faulty") / "faulty", "qwen3", model_file="faulty.py")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = {
        "raises": tokenizer.convert_tokens_to_ids("<|fim_pad|>"),
        "aborts": tokenizer.convert_tokens_to_ids("<|repo_name|>"),
        "pauses": tokenizer.convert_tokens_to_ids("<|fim_middle|>"),
    }
    code = FAULTY
    for name, token_id in ids.items():
        code = code.replace("{" + name + "}", str(token_id))
    (folder / "faulty.py").write_text(code)
    return folder


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server without a network, a cache or a key: all it has is the built-in model."""
    folder = tmp_path_factory.mktemp("demo")
    server = ServerProcess({"HF_HOME": str(folder), "HF_HUB_OFFLINE": "1"}, "--no-spare-worker", "--idle-timeout", "0")
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where servers keep what they have downloaded."""
    return tmp_path_factory.mktemp("hf")


@pytest.fixture
def start(hub: HubStandin, cache: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Start servers with flags; all are stopped in the end, and none may leave a process behind. They have no spare worker
    unless they are told to, as its start takes seconds, and share their downloads unless HF_HOME is given."""
    servers: list[ServerProcess] = []
    environment = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_XET": "1",
        "MLX_SPARE_WORKER": "0",
    }

    def launch(*flags: str, **more: str) -> ServerProcess:
        servers.append(ServerProcess({**environment, **more}, *flags))
        return servers[-1]

    yield launch
    for server in servers:
        server.stop()
