"""Talking to a server that runs."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import click

from mlx_server_nano import __version__
from mlx_server_nano.config import Connection, SettingError, connection

_CONNECT_SECONDS: Final = 5.0
# A stream has a keep-alive every few seconds; an unload may wait for a prefix cache on its way to disk, an answer for its prompt.
_READ_SECONDS: Final = 600.0


def connect(flags: Mapping[str, Any]) -> Client:
    """The server that `options.server_options` name. Raises click.UsageError."""
    try:
        return Client(connection(flags))
    except SettingError as error:
        raise click.UsageError(str(error)) from None


class UnreachableError(click.ClickException):
    """There is no server at the URL, or the connection broke."""


class RefusedError(click.ClickException):
    """The server answered with an error. status: of HTTP; 200 if the error came in mid-stream."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """One server. Every call has a connection of its own, so a `Client` may be used from several threads."""

    def __init__(self, connection: Connection) -> None:
        self.url = connection.url
        self._key = connection.key

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine for certain."""
        return urlsplit(self.url).hostname in ("127.0.0.1", "localhost", "::1")

    def get(self, path: str) -> Any:
        """JSON. Raises UnreachableError, RefusedError, as the others do."""
        with self._answer("GET", path) as response:
            return json.loads(response.read())

    def post(self, path: str, body: dict[str, Any]) -> Any:
        with self._answer("POST", path, body) as response:
            return json.loads(response.read())

    def stream(self, path: str, body: dict[str, Any]) -> Iterator[Any]:
        """The data of each event. An iterator that is closed closes the connection, by which the server knows to stop."""
        with self._answer("POST", path, body) as response:
            for line in response:
                data = line.removeprefix(b"data: ").strip()
                if (
                    data == b"[DONE]" or data == line.strip()
                ):  # the end; a comment, the name of an event or an empty line
                    continue
                event = json.loads(data)
                if isinstance(event, dict) and event.get("error"):
                    raise RefusedError(event["error"]["message"], 200)
                yield event

    @contextmanager
    def _answer(self, method: str, path: str, body: dict[str, Any] | None = None) -> Iterator[http.client.HTTPResponse]:
        parts = urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        link = kind(parts.hostname or "", parts.port, timeout=_CONNECT_SECONDS)
        headers = {"User-Agent": f"mlx-server-nano/{__version__}", "Accept": "*/*"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            link.connect()
            if isinstance(link.sock, socket.socket):
                link.sock.settimeout(_READ_SECONDS)
            link.request(method, parts.path + path, None if body is None else json.dumps(body), headers)
            response = link.getresponse()
            if response.status >= 400:
                raise RefusedError(self._reason(response), response.status)
            yield response
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(
                f"no server answers at {self.url} ({_words(error)}): start one, or name it with --url"
            ) from error
        finally:
            link.close()

    def _reason(self, response: http.client.HTTPResponse) -> str:
        if response.status == 401:
            wants = "wants an API key" if self._key is None else "wants another API key than it got"
            return f"{self.url} {wants}: --api-key-file, or MLX_API_KEY"
        try:
            return str(json.loads(response.read())["error"]["message"])
        except (ValueError, KeyError, TypeError):
            return f"{self.url} answered {response.status}: it is no MLX Server Nano, or an older one"


def _words(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) else None
    return reason or str(error) or type(error).__name__
