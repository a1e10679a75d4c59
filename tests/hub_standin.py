"""A Hugging Face Hub on loopback, as far as the real huggingface_hub client needs one to download a model.

    with HubStandin() as hub:
        hub.add("mlx-community/Tiny-4bit", folder)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)  # read at import: set it before the client's process starts

Routes, as https://huggingface.co serves them: a model's info, its tree, HEAD and GET of files with ETag, X-Repo-Commit and
ranges. A repository's id matches in any case and is redirected to the right one. `requests` records what was asked.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

_API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?")
_TREE = re.compile(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Fault:
    """What goes wrong with a repository.

    status, with the Hub's own error code and message in its headers: the answer to everything, or with `files_only` to files.
    cuts, resets: so many transfers of weights end in the middle, with the connection closed or reset.
    hold: transfers of weights stop half-way until this event is set. stalls: so many of them never go on, with the connection
    open. silent: nothing is ever answered. pause: seconds before each of a hundred pieces of weights.
    """

    status: int | None = None
    code: str | None = None
    message: str | None = None
    files_only: bool = False
    cuts: int = 0
    resets: int = 0
    hold: threading.Event | None = None
    stalls: int = 0
    silent: bool = False
    pause: float = 0.0


@dataclass
class Repository:
    id: str
    folder: Path
    fault: Fault = field(default_factory=Fault)

    @property
    def sha(self) -> str:
        return hashlib.sha1(self.id.encode()).hexdigest()

    def files(self) -> list[tuple[str, Path]]:
        return [(str(path.relative_to(self.folder)), path) for path in sorted(self.folder.rglob("*")) if path.is_file()]


class HubStandin:
    """Serves on a free port while entered. `holding` is set when a transfer waits for its repository's `hold`."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.holding = threading.Event()
        self.closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def add(self, repository: str, folder: Path, **fault: Any) -> Repository:
        self.repositories[repository.casefold()] = found = Repository(repository, folder, Fault(**fault))
        return found

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        for repository in self.repositories.values():
            if repository.fault.hold is not None:
                repository.fault.hold.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # of five, a busy machine drops some: they are tried again after a second

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # clients leave, and faults cut them off
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def _hub(self) -> HubStandin:
        return self.server.hub  # type: ignore[attr-defined]

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        self._hub.requests.append(f"{self.command} {self.path}")
        url = urlsplit(self.path)
        path = unquote(url.path)
        handlers = {_API: self._info, _TREE: self._tree, _FILE: self._file}
        pattern = next((known for known in handlers if known.fullmatch(path)), None)
        match = pattern.fullmatch(path) if pattern is not None else None
        if pattern is None or match is None:
            return self._error(404)
        repository = self._hub.repositories.get(match[1].casefold())
        if repository is None:
            return self._error(401, "RepoNotFound", "Repository not found")
        if match[1] != repository.id:
            return self._send(307, {"Location": self.path.replace(match[1], repository.id, 1)})
        fault = repository.fault
        if fault.silent:
            self._hub.closing.wait()
            self.close_connection = True
            return None
        if fault.status is not None and (pattern is _FILE or not fault.files_only):
            return self._error(fault.status, fault.code, fault.message)
        return handlers[pattern](repository, match, parse_qs(url.query), body)

    def _info(self, repository: Repository, match: re.Match[str], query: dict[str, list[str]], body: bool) -> None:
        siblings: list[dict[str, Any]] = [{"rfilename": name} for name, _ in repository.files()]
        if "blobs" in query:
            for sibling, (_, path) in zip(siblings, repository.files(), strict=True):
                sibling |= {"size": path.stat().st_size, "blobId": _digest(path)}
        info = {"_id": "1", "id": repository.id, "modelId": repository.id, "sha": repository.sha, "siblings": siblings}
        self._json(
            {**info, "private": False, "gated": False, "disabled": False, "tags": [], "downloads": 0, "likes": 0}
        )

    def _tree(self, repository: Repository, match: re.Match[str], query: dict[str, list[str]], body: bool) -> None:
        self._json(
            [
                {"type": "file", "path": name, "size": path.stat().st_size, "oid": _digest(path)}
                for name, path in repository.files()
            ]
        )

    def _file(self, repository: Repository, match: re.Match[str], query: dict[str, list[str]], body: bool) -> None:
        file = dict(repository.files()).get(match[3])
        if file is None or match[2] not in ("main", repository.sha):
            return self._error(404, "EntryNotFound" if file is None else "RevisionNotFound")
        content = file.read_bytes()
        headers = {"ETag": f'"{_digest(file)}"', "X-Repo-Commit": repository.sha, "Accept-Ranges": "bytes"}
        status = 200
        if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            status, start = 206, int(wanted[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content = content[start:]
        self._begin(status, {**headers, "Content-Length": str(len(content))})
        if not body:
            return None
        fault = repository.fault
        half = len(content) // 2 if file.suffix == ".safetensors" else 0
        self.wfile.write(content[:half])
        if half and (fault.cuts or fault.resets):
            if fault.resets:
                # To close without lingering and without a shutdown before sends a reset.
                self.wfile.flush()
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                fault.resets -= 1
            else:
                fault.cuts -= 1
            self.close_connection = True
            return None
        if half and fault.stalls:
            fault.stalls -= 1
            self.wfile.flush()
            self._hub.closing.wait()
            self.close_connection = True
            return None
        if half and fault.hold is not None:
            self.wfile.flush()
            self._hub.holding.set()
            fault.hold.wait()
        try:
            for piece in _pieces(content[half:], 100 if half and fault.pause else 1):
                time.sleep(fault.pause)
                self.wfile.write(piece)
        except OSError:
            self.close_connection = True  # the client has left
        return None

    def _json(self, value: Any) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _error(self, status: int, code: str | None = None, message: str | None = None) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        self._send(status, {name: value for name, value in headers.items() if value})

    def _send(self, status: int, headers: dict[str, str], content: bytes = b"") -> None:
        self._begin(status, {**headers, "Content-Length": str(len(content))})
        if self.command == "GET":
            self.wfile.write(content)

    def _begin(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _pieces(content: bytes, count: int) -> Iterator[bytes]:
    size = max(1, -(-len(content) // count))
    yield from (content[start : start + size] for start in range(0, len(content), size))


def _digest(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
