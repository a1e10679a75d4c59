from __future__ import annotations

import contextlib
import functools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest

from mlx_server_nano.api.app import build_app
from mlx_server_nano.api.gate import Gate
from mlx_server_nano.chat.model import ChatModel
from mlx_server_nano.cli.server import Server, listen
from mlx_server_nano.config import Settings
from mlx_server_nano.config.models import RequestDefaults
from mlx_server_nano.models.catalog import Catalog
from mlx_server_nano.models.manager import Manager
from tests.api.fakes import FakeCatalog, FakeManager, chat_model
from tests.tiny_models import make_model

SOURCE = Path(__file__).parents[2] / "src"
SCHEMAS = Path(__file__).parents[2].parent / "shared/assets/openai/openai_subset.json"


class InThread(Server):
    """Signals belong to the main thread."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Serving:
    """The real app on a real socket."""

    def __init__(self, settings: Settings, manager: Any, catalog: Any) -> None:
        self.gate = Gate()
        self.server = InThread(build_app(settings, manager, catalog, self.gate), settings, self.gate)
        self._listener = listen("127.0.0.1", 0)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._open = contextlib.ExitStack()  # clients and connections
        self._thread = threading.Thread(target=self.server.run, args=([self._listener],))

    def start(self) -> None:
        self._thread.start()
        wait_until(lambda: self.server.started)

    def stop(self) -> None:
        self._open.close()
        self.gate.drain()
        self.server._deadline = 0.0
        self._thread.join(60)
        assert not self._thread.is_alive()

    def client(self, **options: Any) -> openai.OpenAI:
        given: dict[str, Any] = {"api_key": "x", "max_retries": 0, "timeout": 60} | options
        return self._open.enter_context(openai.OpenAI(base_url=f"{self.url}/v1", **given))

    def connect(self) -> socket.socket:
        return self._open.enter_context(socket.create_connection(("127.0.0.1", self.port), timeout=60))

    def post(self, body: bytes | dict, path: str = "/v1/chat/completions", headers: str = "") -> socket.socket:
        """A raw request; the connection is to be closed by the server."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {len(data)}\r\n{headers}\r\n"
        connection = self.connect()
        connection.sendall(head.encode() + data)
        return connection


class Running(Serving):
    """With a scripted manager behind it."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.manager = FakeManager()
        super().__init__(settings, self.manager, FakeCatalog(folder))

    def settle(self) -> None:
        """What was asked comes to its end, to the last line in the log, as its clients are gone."""
        self._open.close()
        wait_until(lambda: not self.server.server_state.tasks)
        assert self.manager.leases == self.manager.waiting == 0

    def stop(self) -> None:
        self._open.close()
        super().stop()
        assert self.manager.leases == self.manager.waiting == 0
        assert not self.manager.running


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)


def read_all(connection: socket.socket) -> bytes:
    with connection:
        return b"".join(iter(lambda: connection.recv(65536), b""))


def read_until(connection: socket.socket, needle: bytes) -> bytes:
    data = b""
    while needle not in data:
        more = connection.recv(65536)
        assert more, data
        data += more
    return data


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start servers with these settings."""
    with contextlib.ExitStack() as stack:

        def start(**settings: Any) -> Running:
            running = Running(Settings(**settings), tmp_path)
            running.start()
            stack.callback(running.stop)
            return running

        yield start


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    # Silence is for the tests whose own server has a short interval; this one may be held up for long.
    running = Running(Settings(keepalive_interval=3600.0), tmp_path_factory.mktemp("model"))
    running.start()
    yield running
    running.stop()


@pytest.fixture
def server(running: Running) -> Iterator[Running]:
    """The module's server, as ending one takes a fifth of a second; the manager behind it is as new."""
    running.manager.renew()
    yield running
    running.settle()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny random model that `real_server` serves as "tiny"."""
    return make_model(tmp_path_factory.mktemp("models") / "tiny", "qwen3", generation_config={})


@pytest.fixture(scope="module")
def real_server(tiny_folder: Path) -> Iterator[Serving]:
    """A server with a real worker. Not for the session: other tests watch for processes that are left over."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(SOURCE))
        settings = Settings(spare_worker=False)
        catalog = Catalog(built_in={"tiny": tiny_folder})
        serving = Serving(settings, Manager(settings, catalog), catalog)
        serving.start()
        yield serving
        serving.stop()


@pytest.fixture(scope="session")
def validate() -> Callable[[object, str], None]:
    """Check a value against a schema of OpenAI's document; a stream's event against that of its own type."""
    if not SCHEMAS.exists():
        pytest.skip("OpenAI's schemas are not beside the repository (shared/assets)")
    document = json.loads(SCHEMAS.read_text())

    @functools.cache  # a validator looks through the whole document before its first value
    def validator(name: str) -> jsonschema.Draft202012Validator:
        return jsonschema.Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": document["$defs"]})

    events = {
        kind: name
        for option in document["$defs"]["ResponseStreamEvent"]["anyOf"]
        for name in [option["$ref"].rpartition("/")[2]]
        for kind in document["$defs"][name]["properties"]["type"]["enum"]
    }

    def validate(value: Any, name: str) -> None:
        validator(events[value["type"]] if name == "ResponseStreamEvent" else name).validate(value)

    return validate


@dataclass(frozen=True)
class LeaseOf:
    """As much of a lease as an encoder asks for."""

    chat: ChatModel
    defaults: RequestDefaults = field(default_factory=RequestDefaults)


HERMES = """{% if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools>
<tool_call>{"name": <name>, "arguments": <arguments>}</tool_call>{% endif %}
{% for message in messages %}{{ message.role }}: {{ message.content }}
{% for call in message.tool_calls or [] %}<tool_call>{"name": "{{ call.function.name }}", "arguments": \
{{ call.function.arguments | tojson }}}</tool_call>{% endfor %}{% endfor %}<think>"""


@pytest.fixture(scope="session")
def plain() -> Any:
    return LeaseOf(chat_model("{% for message in messages %}{{ message.content }}{% endfor %}"))


@pytest.fixture(scope="session")
def hermes() -> Any:
    return LeaseOf(chat_model(HERMES))
