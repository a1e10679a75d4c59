from __future__ import annotations

import json

from mlx_server_nano.errors import HubUnavailableError
from tests.api.conftest import Running
from tests.api.fakes import Script
from tests.cli.conftest import Command


def test_ps(command: Command) -> None:
    done = command("ps")
    assert done.exit_code == 0
    assert done.output.splitlines() == [
        "MODEL          STATE    MEMORY  CONTEXT  RUNNING  WAITING  UNLOADED IN",
        "org/model      ready      1 kB      100        1        0  in use",
        "/models/local  ready      1 kB      100        1        0  in use",
        "org/coming     loading    1 kB                 1        0",
        "3 kB of 5 kB are in use.",
    ]
    assert json.loads(command("ps", "--json").output)["memory"]["limit_bytes"] == 5000


def test_load(command: Command, server: Running) -> None:
    server.manager.scripts["m"] = Script(opening=[[]])
    done = command("load", "m")
    assert (done.exit_code, done.output) == (0, "m is loaded.\n")
    server.manager.scripts["m"] = Script(opening=[HubUnavailableError("The Hub is away.")])
    done = command("load", "m")
    assert (done.exit_code, done.output) == (1, "Error: The Hub is away.\n")
    assert "does not exist" in command("load", "no").output


def test_stop(command: Command) -> None:
    done = command("stop", "m", "no")
    assert "m is in use" in done.output and "'no' does not exist" in done.output
    assert command("stop", "--force", "m").output == "m is unloaded.\n"
    for args in ([], ["--all", "m"]):
        assert command("stop", *args).exit_code == 2


def test_stop_all(command: Command, server: Running) -> None:
    for status in server.manager.status():
        server.manager.scripts[status.id] = Script()
    done = command("stop", "--all", "--force")
    assert done.output.splitlines() == [f"{status.id} is unloaded." for status in server.manager.status()]


def test_without_the_key(command: Command, server: Running) -> None:
    for key, wants in (("", "an API key"), ("wrong", "another API key than it got")):
        done = command("ps", MLX_API_KEY=key)
        told = f"Error: {server.url} wants {wants}: --api-key-file, or MLX_API_KEY\n"
        assert (done.exit_code, done.output) == (1, told)


def test_without_a_server(command: Command, server: Running) -> None:
    done = command("ps", "--url", "http://127.0.0.1:9")
    assert done.exit_code == 1 and "no server answers at http://127.0.0.1:9 (Connection refused)" in done.output
    assert command("ps", "--url", "ftp://x").exit_code == 2
