from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_server_nano.cli.client import Client
from mlx_server_nano.cli.doctor import Finding, Grade, check_cache, check_machine, check_packages, check_server
from mlx_server_nano.config import Connection
from tests.api.conftest import Running


def grades(findings: list[Finding]) -> list[Grade]:
    assert all(bool(finding.advice) is (finding.grade is not Grade.GOOD) for finding in findings)
    return [finding.grade for finding in findings]


@pytest.mark.parametrize(
    ("system", "machine", "python", "grade"),
    [
        ("darwin", "arm64", (3, 12), Grade.GOOD),
        ("linux", "x86_64", (3, 11), Grade.GOOD),
        ("darwin", "x86_64", (3, 12), Grade.BROKEN),
        ("win32", "AMD64", (3, 12), Grade.BROKEN),
        ("linux", "aarch64", (3, 14), Grade.BROKEN),
        ("linux", "aarch64", (3, 10), Grade.BROKEN),
    ],
)
def test_machines(system: str, machine: str, python: tuple[int, int], grade: Grade) -> None:
    assert grades(list(check_machine(system, machine, python))) == [grade]


def test_packages() -> None:
    wanted = ["mlx-lm>=0.32.2,<0.33", "starlette>=1.0", 'winonly>=1; sys_platform == "win32"', "msgspec>=0.20"]
    there = {"mlx-lm": "0.32.4", "starlette": "1.2", "msgspec": "0.20"}
    assert grades(list(check_packages(wanted, there))) == [Grade.GOOD]
    first, second = check_packages(wanted, {**there, "mlx-lm": "0.33.0", "msgspec": None})
    assert (first.what, first.advice) == ("mlx-lm is version 0.33.0", "pip install 'mlx-lm<0.33,>=0.32.2'")
    assert second.what == "msgspec is not installed"


def test_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 20_000_000_000
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": free}))
    (finding,) = check_cache(tmp_path / "not" / "yet")
    assert finding.grade is Grade.GOOD and "20.0 GB" in finding.what
    free = 1_000_000_000
    assert grades(list(check_cache(tmp_path))) == [Grade.WARNING]
    monkeypatch.setattr("os.access", lambda *_: False)
    assert grades(list(check_cache(tmp_path))) == [Grade.BROKEN]


def test_servers_and_ports(server: Running) -> None:
    (finding,) = check_server(Client(Connection(server.url, "secret")), "127.0.0.1", 0)
    assert finding.grade is Grade.GOOD and "3 model(s), 3 kB of 5 kB" in finding.what
    assert grades(list(check_server(Client(Connection(server.url, "wrong")), "127.0.0.1", 0))) == [Grade.WARNING]
    server.manager.problem = "MLX is missing."
    assert grades(list(check_server(Client(Connection(server.url, "secret")), "127.0.0.1", 0))) == [Grade.BROKEN]
    nobody = Client(Connection("http://127.0.0.1:9"))
    assert grades(list(check_server(nobody, "127.0.0.1", 0))) == [Grade.GOOD]
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        (finding,) = check_server(nobody, "127.0.0.1", port)
    assert finding.grade is Grade.BROKEN and f"127.0.0.1:{port}" in finding.what


def test_this_installation(tmp_path: Path, child_path: None) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLX_")}
    environment = {**clean, "HF_HOME": str(tmp_path), "HF_TOKEN": "hf_secret", "MLX_SERVER_PORT": "0"}
    command = [sys.executable, "-m", "mlx_server_nano", "doctor", "--url", "http://127.0.0.1:9"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "broken" not in done.stdout and "hf_secret" not in done.stdout
    for told in ("mlx-lm", "A worker process starts", "The model demo", str(tmp_path), "a token for the Hub"):
        assert told in done.stdout
