"""The worker as a process, at the other end of its socket."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from mlx_server_nano.config import worker_environment
from mlx_server_nano.protocol import (
    Cancel,
    Delta,
    Event,
    Failed,
    FrameReader,
    Generate,
    Load,
    Loaded,
    LoadFailed,
    LoadOptions,
    LoadProgress,
    Ready,
    Started,
    Step,
    ToGateway,
    ToWorker,
    to_frame,
)
from mlx_server_nano.types import FinishReason, GenerationRequest, Sampling, TextPrompt, TokenPrompt

SOURCE = Path(__file__).resolve().parents[2] / "src"
WORKER = (sys.executable, "-m", "mlx_server_nano.worker")
LIMIT = 100.0  # seconds that anything may take: on a busy machine, a process's start takes half a minute

M = TypeVar("M")


class Process:
    def __init__(self, command: Sequence[str] = WORKER) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(LIMIT)
        self._reader: FrameReader[ToGateway] = FrameReader(ToGateway)
        self._messages: list[ToGateway] = []
        with theirs:
            self.child = subprocess.Popen(
                [*command, "--fd", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**worker_environment(), "PYTHONPATH": str(SOURCE)},
                stderr=subprocess.PIPE,
            )

    def send(self, message: ToWorker) -> None:
        self._socket.sendall(to_frame(message))

    def send_raw(self, data: bytes) -> None:
        self._socket.sendall(data)

    def next(self) -> ToGateway | None:
        """None at the end of the socket."""
        while not self._messages:
            data = self._socket.recv(1 << 16)
            if not data:
                return None
            self._messages += self._reader.feed(data)
        return self._messages.pop(0)

    def expect(self, kind: type[M]) -> M:
        message = self.next()
        assert isinstance(message, kind), message
        return message

    def load(self, folder: Path, **options: Any) -> Loaded:
        self.send(Load(str(folder), LoadOptions(log_name="test", **options)))
        while isinstance(message := self.next(), LoadProgress):
            pass
        assert isinstance(message, Loaded), message
        return message

    def events(self) -> Iterator[Event]:
        while (message := self.next()) is not None:
            assert isinstance(message, Step)
            yield from message.events

    def close(self) -> None:
        self._socket.close()

    def ended(self) -> int:
        _, errors = self.child.communicate(timeout=LIMIT)
        assert b"Traceback" not in errors, errors.decode()
        return self.child.returncode


@pytest.fixture
def process() -> Iterator[Process]:
    process = Process()
    try:
        yield process
    finally:
        process.close()
        process.child.kill()
        process.child.communicate()


@pytest.fixture
def ready(process: Process) -> Process:
    process.expect(Ready)
    return process


def ask(ids: tuple[int, ...], **fields: Any) -> GenerationRequest:
    return GenerationRequest(prompt=TokenPrompt(ids=ids), **{"sampling": Sampling(temperature=0), **fields})


def test_a_whole_life(process: Process, tiny_folder: Callable[..., Path]):
    """One process for many things: starting one takes seconds."""
    device = process.expect(Ready).device
    assert device.backend in {"cpu", "metal", "cuda"} and device.name

    info = process.load(tiny_folder("qwen3")).info
    assert info.model_type == "qwen3" and info.context_length == 4096

    process.send(Cancel(99))
    process.send(Generate(1, ask((5, 6, 7), max_tokens=4)))
    process.send(Generate(2, ask((), max_tokens=4)))
    process.send(Generate(3, ask((8,) * 5000, max_tokens=4)))
    process.send(Generate(4, GenerationRequest(prompt=TextPrompt(text="Hello"), max_tokens=1, n=2)))
    started: dict[int, Started] = {}
    failed: dict[int, Failed] = {}
    finishes: dict[tuple[int, int], FinishReason] = {}
    tokens = 0
    for event in process.events():
        if isinstance(event, Started):
            started[event.request_id] = event
        elif isinstance(event, Failed):
            failed[event.request_id] = event
        elif isinstance(event, Delta):
            assert event.request_id in started
            tokens += event.tokens if event.request_id == 1 else 0
            if event.finish is not None:
                finishes[event.request_id, event.choice] = event.finish
        if len(finishes) == 3 and len(failed) == 2:
            break
    assert finishes == dict.fromkeys([(1, 0), (4, 0), (4, 1)], FinishReason.LENGTH)
    assert tokens == 4 and started[1].prompt_tokens == 3
    assert {i: event.failure.kind for i, event in failed.items()} == {2: "InvalidRequestError", 3: "ContextLengthError"}

    # Ctrl-C reaches the whole process group, but it is the gateway who ends workers.
    os.kill(process.child.pid, signal.SIGINT)
    process.send(Generate(5, ask((5,), max_tokens=4000)))
    process.send(Generate(6, ask((6,), max_tokens=4000)))
    seen = 0
    for event in process.events():
        seen += event.request_id == 5
        if seen == 10 and event.request_id == 5:
            process.send(Cancel(5))
            process.send(Cancel(5))
            process.send(Generate(7, ask((7,), max_tokens=2)))
        if event.request_id == 7 and isinstance(event, Delta) and event.finish is not None:
            break
    # Request 7 came after the cancel, so nothing of 5 may come now; 6 goes on.
    following = [event for event, _ in zip(process.events(), range(20), strict=False)]
    assert {event.request_id for event in following} == {6}

    # The end of the gateway in mid-generation.
    process.close()
    assert process.ended() == 0


def test_a_failed_load_is_reported_and_ends_the_process(ready: Process, tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt5"}))
    ready.send(Load(str(tmp_path), LoadOptions(log_name="test")))
    failure = ready.expect(LoadFailed).failure
    assert failure.kind in {"UnsupportedModelError", "ModelLoadError"}
    assert ready.next() is None
    assert ready.ended() == 0


SLOW_MODEL = """
import time
from mlx_lm.models.llama import ModelArgs

def Model(args):
    open({flag!r}, "w").close()
    time.sleep(600)
"""


def test_the_end_of_the_gateway_ends_a_load(ready: Process, tiny_folder: Callable[..., Path], tmp_path: Path):
    """Even if requests came before the model was there."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny_folder("llama").iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "config.json").unlink()
    config = json.loads((tiny_folder("llama") / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_file": "slow.py"}))
    flag = tmp_path / "loading"
    (folder / "slow.py").write_text(SLOW_MODEL.format(flag=str(flag)))
    ready.send(Load(str(folder), LoadOptions(log_name="test", trust_remote_code=True)))
    ready.send(Generate(1, ask((5,))))
    ready.send(Cancel(1))
    until = time.monotonic() + LIMIT
    while not flag.exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    ready.close()
    assert ready.ended() == 0


@pytest.mark.parametrize("data", [b"\xff" * 64, b"\x00\x00\x00\x02\xc1\xc1"], ids=["length", "body"])
def test_what_is_no_frame_ends_the_process(process: Process, data: bytes):
    """It can't know where the next frame begins; deaf, it would outlive the gateway."""
    process.send_raw(data)
    _, errors = process.child.communicate(timeout=LIMIT)
    assert process.child.returncode == 1
    assert b"messages can't be read" in errors
