"""`chat` as a process on a pseudo-terminal, and with its input from a pipe."""

from __future__ import annotations

import codecs
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_server_nano.types import ChatPrompt
from tests.api.conftest import HERMES, Running, wait_until
from tests.api.fakes import Forever, Script, started, text
from tests.cli.conftest import Command

CALL = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'


class Terminal:
    """A process whose input and output are a terminal."""

    def __init__(self, *args: str, **environment: str) -> None:
        self._ours, theirs = pty.openpty()
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MLX_")}
        # What is started in the background of a script ignores SIGINT, and so do its children.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlx_server_nano", *args],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**clean, "TERM": "xterm", "PYTHONPATH": "src", **environment},
            start_new_session=True,
        )
        signal.signal(signal.SIGINT, before)
        os.close(theirs)
        self._decode = codecs.getincrementaldecoder("utf-8")().decode  # a read may end within a character
        self.seen = ""

    def until(self, pattern: str) -> str:
        """What came up to the pattern."""
        end = time.monotonic() + 60
        while not (found := re.search(pattern, self.seen, re.DOTALL)):
            assert time.monotonic() < end, self.seen
            if select.select([self._ours], [], [], 1)[0]:
                try:
                    self.seen += self._decode(os.read(self._ours, 65536))
                except OSError as error:
                    raise AssertionError(f"it ended: {self.seen}") from error
        before, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return before

    def type(self, line: str) -> None:
        os.write(self._ours, line.encode())

    def interrupt(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> int:
        self.process.wait(60)
        os.close(self._ours)
        return self.process.returncode


@pytest.fixture
def terminal(server: Running) -> Iterator[Terminal]:
    server.manager.scripts["m"] = Script(
        lambda request: [started(), *text(*answer(request).split("|"))], template=HERMES.removesuffix("<think>")
    )
    server.manager.scripts["slow"] = Script(lambda request: [started(), *text("Well", finish=None), Forever])
    terminal = Terminal("chat", "m", MLX_SERVER_URL=server.url, MLX_API_KEY="secret")
    yield terminal
    if terminal.process.poll() is None:
        terminal.process.kill()
        terminal.end()


def answer(request: object) -> str:
    """By the last message."""
    prompt = request.prompt  # type: ignore[attr-defined]
    assert isinstance(prompt, ChatPrompt)
    last = prompt.messages[-1]
    if last["role"] == "tool":
        return "It is |done."
    return CALL if "call" in str(last["content"]) else "<think>Hm.</think>|Hel|lo"


def test_a_conversation(terminal: Terminal, server: Running, tmp_path: Path) -> None:
    (tmp_path / "tools.json").write_text('[{"name": "f", "parameters": {"type": "object"}}]')
    terminal.until(r"m at .*>>> ")
    terminal.type("hi\n")
    shown = terminal.until(r">>> ")
    assert "\x1b[2mHm." in shown and re.search(r"\r\nHello\r\n.*tokens in", shown, re.DOTALL)
    terminal.type("one\\\n")
    terminal.until(r"\.\.\. ")
    terminal.type("two\n")
    terminal.until(r">>> ")
    terminal.type('"""three\n')
    terminal.until(r"\.\.\. ")
    terminal.type('four"""\n')
    terminal.until(r">>> ")

    terminal.type(f"/tools {tmp_path / 'tools.json'}\n")
    terminal.until(r">>> ")
    terminal.type("call it\n")
    assert "→ f " in terminal.until(r"result of f> ")
    terminal.type("ok\n")
    assert "It is done." in terminal.until(r">>> ")

    for line, told in [
        ("/set temperature 0.5", ""),
        ("/set", "temperature 0.5"),
        ("/set temprature 1", "there is no 'temprature'"),
        ("/system Be brief.", ""),
        ("/model", r"org/model"),
        ("/model no", "does not exist"),
        ("/nothing", "there is no /nothing"),
        ("/help", "Ctrl-C stops an answer"),
        (f"/save {tmp_path / 'talk.json'}", ""),
    ]:
        terminal.type(line + "\n")
        assert told in terminal.until(r">>> ")
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert [message["role"] for message in saved["messages"]] == [
        "system",
        *["user", "assistant"] * 4,
        "tool",
        "assistant",
    ]
    assert [m["content"] for m in saved["messages"] if m["role"] == "user"] == [
        "hi",
        "one\ntwo",
        "three\nfour",
        "call it",
    ]
    assert saved["temperature"] == 0.5
    terminal.type("/clear\n")
    terminal.until(r">>> ")
    terminal.type("\x04")
    assert terminal.end() == 0


def test_ctrl_c_stops_an_answer_and_nothing_else(terminal: Terminal, server: Running) -> None:
    terminal.until(r">>> ")
    terminal.interrupt()
    terminal.type("\n/set x\n")  # readline may have begun to wait for a key just before the signal came
    terminal.until(r"Ctrl-D leaves.*say /set NAME VALUE.*>>> ")
    terminal.type("/model slow\n")
    terminal.until(r">>> ")
    terminal.type("hi\n")
    terminal.until("Well")
    terminal.interrupt()
    terminal.until(r"stopped.*>>> ")
    wait_until(lambda: server.gate.idle)
    assert server.manager.cancelled
    terminal.type("/exit\n")
    assert terminal.end() == 0


def test_from_a_pipe(command: Command, server: Running) -> None:
    server.manager.scripts["m"] = Script()
    done = command("chat", "m", input="hi\n\n/exit\nnever\n")
    assert (done.exit_code, done.output) == (0, "Hello\n")


def test_what_fails_is_told_and_forgotten(command: Command, server: Running) -> None:
    def play(request: object) -> list:
        if len(request.prompt.messages) > 1:  # type: ignore[attr-defined]
            raise AssertionError
        return [started(), *text("Hel", finish=None), ValueError("no")]

    server.manager.scripts["m"] = Script(play)
    done = command("chat", "m", input="hi\nho\n")
    assert done.exit_code == 0
    assert done.output.count("internal error") == 2


def test_bad_tools(command: Command) -> None:
    done = command("chat", "--tools", "/nowhere")
    assert done.exit_code == 2 and "--tools" in done.output
