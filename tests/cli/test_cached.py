"""pull, list and rm, as processes beside a stand-in for the Hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.api.conftest import Running
from tests.hub_standin import HubStandin
from tests.models.folders import cache_repository, write_model

NAME = "mlx-community/Tiny-4bit"
CONFIG = {"config.json": '{"model_type": "qwen3", "quantization": {"bits": 4}, "max_position_embeddings": 2048}'}


class Machine:
    """With an empty cache."""

    def __init__(self, folder: Path) -> None:
        self.cache = folder / "hf" / "hub"
        self.environment = {"HF_HUB_CACHE": str(self.cache), "MLX_SERVER_URL": "http://127.0.0.1:9"}

    def run(self, *args: str, input: str = "", **environment: str) -> tuple[int, str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MLX_")}
        done = subprocess.run(
            [sys.executable, "-m", "mlx_server_nano", *args],
            env={**clean, **self.environment, **environment},
            input=input,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def machine(tmp_path: Path, hub: HubStandin) -> Machine:
    return Machine(tmp_path)


def test_from_pull_to_rm(machine: Machine, hub: HubStandin, tmp_path: Path) -> None:
    repository = hub.add(NAME, write_model(tmp_path / "repo", weights=b"w" * 3_000_000, files=CONFIG), status=403)
    repository.fault.files_only = True
    code, _, told = machine.run("pull", "tiny-4bit")
    assert (code, told.count("\n")) == (1, 1) and "The Hub refuses access" in told
    repository.fault.status = None
    code, told, bars = machine.run("pull", "tiny-4bit")
    assert (code, bars) == (0, "") and told.startswith(f"{NAME} is in {machine.cache}")
    before = len(hub.requests)
    assert machine.run("pull", NAME)[0] == 0
    assert not any(request.startswith("GET") and "/resolve/" in request for request in hub.requests[before:])

    code, told, _ = machine.run("list", MLX_ALIAS="fast=tiny")
    lines = [line.split() for line in told.splitlines()]
    assert [line[0] for line in lines] == ["MODEL", "demo", NAME, "fast"]
    assert lines[2] == [NAME, "3", "MB", "4-bit", "plain", "2,048", *lines[2][-3:]]
    assert lines[3] == ["fast", "=", NAME]
    listed = json.loads(machine.run("list", "--json")[1])
    assert [model["id"] for model in listed] == ["demo", NAME]

    code, told, asked = machine.run("rm", "tiny", input="n\n")
    assert (code, told) == (1, "Nothing is deleted.\n")
    assert asked.startswith(f"Delete {NAME} and free 3 MB?")
    code, told, _ = machine.run("rm", "tiny", "--yes")
    assert (code, told) == (0, f"Deleted {NAME}: 3 MB are free.\n")
    assert not list(machine.cache.glob("models--*"))
    code, _, told = machine.run("rm", NAME, "--yes")
    assert code == 1 and "is not in the cache" in told


def test_what_can_not_be_pulled(machine: Machine, hub: HubStandin, tmp_path: Path) -> None:
    hub.add("org/gated", write_model(tmp_path / "gated"), status=403, code="GatedRepo")
    hub.add("org/odd", write_model(tmp_path / "odd", files={"config.json": '{"model_type": "odd"}'}))
    for name, reason in [
        ("org/gated", "gated"),
        ("org/odd", "no model type 'odd'"),
        ("org/none", "There is no model org/none"),
        ("demo", "needs no download"),
    ]:
        code, _, told = machine.run("pull", name)
        assert code == 1 and reason in told and told.count("\n") == 1


def test_a_loaded_model_is_not_deleted(machine: Machine, server: Running) -> None:
    cache_repository(machine.cache, "org/model")
    cache_repository(machine.cache, "org/other")
    running = {"MLX_SERVER_URL": server.url, "MLX_API_KEY": "secret"}
    code, _, told = machine.run("rm", "--yes", "org/other", "org/model", **running)
    assert (code, told) == (
        1,
        f"mlx-server-nano: the server at {server.url} has org/model loaded: mlx-server-nano stop org/model\n",
    )
    code, _, told = machine.run("rm", "--yes", "org/other", **{**running, "MLX_API_KEY": "wrong"})
    assert code == 1 and "wants another API key than it got" in told
    assert machine.run("rm", "--yes", "org/other", **running)[0] == 0
    assert [folder.name for folder in machine.cache.glob("models--*")] == ["models--org--model"]
    assert machine.run("rm", "--yes", "demo", **running)[2] == "mlx-server-nano: demo is part of the package\n"
