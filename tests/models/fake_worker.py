"""A scripted worker: speaks the protocol, loads nothing.

    python fake_worker.py [--start ready|die|silent|garbage] [--memory BYTES] [--log FILE] [--fd N]

What loading does, the file `script` in the model's folder says: `ok` (as without it), `fail`, `crash`, `hang`, or `wait`: until a
file `go` is there. What generating does, the prompt says: `count K` sends K tokens, one step each; `hold` sends
one token and no more; `fail`, `crash`, `exit` end it after one token. With `deaf` in the folder it ignores the end of the socket.
Everything that happens is a line in the log file, with the process's id.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import socket
import sys
from pathlib import Path

from mlx_server_nano.errors import GenerationError, UnsupportedModelError
from mlx_server_nano.protocol import (
    Allow,
    Cancel,
    Delta,
    Device,
    Event,
    Failed,
    FrameReader,
    Generate,
    Load,
    Loaded,
    LoadFailed,
    LoadProgress,
    Ready,
    Started,
    Step,
    ToGateway,
    ToWorker,
    Unload,
    to_frame,
)
from mlx_server_nano.types import FinishReason, GenerationRequest, ModelInfo, TextPrompt

INFO = ModelInfo(
    model_type="fake",
    context_length=100,
    vocab_size=10,
    weights_bytes=1,
    chat_template=None,
    chats=False,
    special_tokens={},
    batchable=True,
)


class FakeWorker:
    def __init__(self, connection: socket.socket, log: Path | None) -> None:
        self._connection = connection
        self._log = log
        self._reader: FrameReader[ToWorker] = FrameReader(ToWorker)
        self._running: dict[int, Generate] = {}
        self._sent: dict[int, int] = {}
        self._deaf = False

    def note(self, text: str) -> None:
        if self._log is not None:
            with self._log.open("a") as file:
                file.write(f"{os.getpid()} {text}\n")

    def send(self, message: ToGateway) -> None:
        self._connection.sendall(to_frame(message))

    def run(self) -> None:
        while True:
            busy = any(self._wants_step(request) for request in self._running.values())
            readable, _, _ = select.select([self._connection], [], [], 0 if busy else None)
            if readable:
                data = self._connection.recv(65536)
                if not data:
                    self.note("end")
                    if self._deaf:
                        signal.pause()
                    return
                for message in self._reader.feed(data):
                    self._take(message)
            if busy:
                self._step()

    def _take(self, message: ToWorker) -> None:
        if isinstance(message, Load):
            if message.options.draft_folder is not None:
                required = " required" if message.options.draft_required else ""
                trusted = " trusted" if message.options.draft_trust_remote_code else ""
                self.note(f"draft {Path(message.options.draft_folder).name}{required}{trusted}")
            self._load(Path(message.path))
        elif isinstance(message, Generate):
            self.note(f"generate {message.request_id}")
            self._running[message.request_id] = message
            self._sent[message.request_id] = 0
        elif isinstance(message, Cancel):
            self.note(f"cancel {message.request_id}")
            self._running.pop(message.request_id, None)
        elif isinstance(message, Unload):
            self.note(f"unload within {message.seconds:g}")
            sys.exit()
        elif isinstance(message, Allow):
            self.note(f"allow {message.memory_bytes >> 20} MiB")

    def _load(self, folder: Path) -> None:
        self.note(f"load {folder.name}")
        script = (folder / "script").read_text() if (folder / "script").exists() else "ok"
        self._deaf = (folder / "deaf").exists()
        self.send(LoadProgress(0.5))
        if script == "hang":
            signal.pause()
        elif script == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        elif script == "fail":
            self.send(LoadFailed(UnsupportedModelError("this model is made to fail").to_failure()))
            return
        while script == "wait" and not (folder / "go").exists():
            if select.select([self._connection], [], [], 0.01)[0]:
                return  # the end of the socket, which the main loop handles
        self.send(Loaded(INFO))

    def _prompt(self, generate: Generate) -> list[str]:
        assert isinstance(generate.request, GenerationRequest)
        prompt = generate.request.prompt
        assert isinstance(prompt, TextPrompt)
        return prompt.text.split()

    def _wants_step(self, generate: Generate) -> bool:
        return self._prompt(generate)[0] != "hold" or self._sent[generate.request_id] == 0

    def _step(self) -> None:
        events: list[Event] = []
        for request_id, generate in list(self._running.items()):
            if self._wants_step(generate):
                events += self._advance(request_id, generate)
        self.send(
            Step(tuple(events), memory_bytes=1 << 20, drafted_tokens=3, accepted_tokens=2, kv_bytes=5, prefix_bytes=7)
        )

    def _advance(self, request_id: int, generate: Generate) -> list[Event]:
        kind, *count = self._prompt(generate)
        sent = self._sent[request_id]
        self._sent[request_id] += 1
        if sent == 1 and kind == "fail":
            del self._running[request_id]
            return [Failed(request_id, GenerationError("made to fail").to_failure())]
        if sent == 1 and kind == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        if sent == 1 and kind == "exit":
            sys.exit(3)
        last = kind == "count" and sent + 1 == int(count[0])
        if last:
            del self._running[request_id]
        events: list[Event] = [] if sent else [Started(request_id, 2, 0, "tail")]
        finish = FinishReason.STOP if last else None
        return events + [Delta(request_id, choice, f"t{sent} ", 1, (), finish) for choice in range(generate.request.n)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--start", default="ready")
    parser.add_argument("--start-file", type=Path)
    parser.add_argument("--memory", type=int)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--fd", type=int, required=True)
    options = parser.parse_args()
    connection = socket.socket(fileno=options.fd)
    worker = FakeWorker(connection, options.log)
    start = options.start_file.read_text() if options.start_file else options.start
    worker.note(f"start {start}")
    if start == "die":
        sys.exit(7)
    if start == "garbage":
        connection.sendall(b"\0\0\0\1\xc1")
    if start in ("garbage", "silent"):
        connection.recv(1)
        return
    worker.send(Ready(Device(name="fake", backend="fake", memory_bytes=options.memory)))
    worker.run()


if __name__ == "__main__":
    main()
