from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlx_server_nano.cli.app import commands
from mlx_server_nano.config import Settings
from tests.api.conftest import Running
from tests.models.conftest import child_path, hub

__all__ = ["child_path", "hub"]

Command = Callable[..., Result]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    """With a scripted manager, and a key."""
    running = Running(Settings(api_key=("secret",)), tmp_path)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def command(server: Running, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command against the server, in this process."""
    monkeypatch.setenv("MLX_SERVER_URL", server.url)
    monkeypatch.setenv("MLX_API_KEY", "secret")

    def command(*args: str, input: str | None = None, **environment: str) -> Result:
        return CliRunner().invoke(commands, args, input=input, env=environment)

    return command
