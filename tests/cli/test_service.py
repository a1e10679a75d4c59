"""`service`, with stand-ins for the service managers that note what they are told."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from mlx_server_nano.cli.service import plan, serving

ROOT = Path(__file__).parents[2]


@pytest.fixture
def machine(tmp_path):
    """Runs `service` in a home of its own; the stand-in's notes are the second result."""
    manager = "launchctl" if sys.platform == "darwin" else "systemctl"
    (tmp_path / "bin").mkdir()
    stand_in = tmp_path / "bin" / manager
    stand_in.write_text(
        f'#!/bin/sh\necho "$0 $*" | sed "s,.*/,," >> {tmp_path}/notes\nexit "$(cat {tmp_path}/code 2>/dev/null || echo 0)"\n'
    )
    stand_in.chmod(0o755)

    def run(*args):
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MLX_")}
        done = subprocess.run(
            [sys.executable, "-m", "mlx_server_nano", "service", *args],
            env={
                **clean,
                "HOME": str(tmp_path),
                "PATH": f"{tmp_path}/bin:/usr/bin:/bin",
                "PYTHONPATH": str(ROOT / "src"),
            },
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        notes = tmp_path / "notes"
        told = notes.read_text().splitlines() if notes.exists() else []
        notes.unlink(missing_ok=True)
        return done, told

    return run


def installed(home: Path) -> Path:
    return plan([], platform=sys.platform, home=home, user=os.getuid()).path


@pytest.mark.skipif(sys.platform != "linux", reason="systemd's commands")
def test_a_service_comes_and_goes(machine, tmp_path):
    done, told = machine("install", "--port", "9001", "--no-spare-worker")
    assert (done.returncode, done.stderr) == (0, "")
    content = installed(tmp_path).read_text()
    assert f'ExecStart="{sys.executable}" "-m" "mlx_server_nano" "serve" "--port" "9001" "--no-spare-worker"' in content
    assert told == [
        "systemctl --user daemon-reload",
        "systemctl --user enable mlx-server-nano",
        "systemctl --user restart mlx-server-nano",
    ]
    done, told = machine("status")
    assert done.returncode == 0 and told == ["systemctl --user --no-pager status mlx-server-nano"]
    (tmp_path / "code").write_text("3")
    assert machine("status")[0].returncode == 3
    (tmp_path / "code").unlink()
    done, told = machine("uninstall")
    assert done.returncode == 0 and not installed(tmp_path).exists()
    assert told == ["systemctl --user disable --now mlx-server-nano", "systemctl --user daemon-reload"]


def test_a_dry_run_changes_nothing(machine, tmp_path):
    done, told = machine("install", "--dry-run", "--port", "9001")
    assert done.returncode == 0 and str(installed(tmp_path)) in done.stdout and "9001" in done.stdout
    assert not told and not installed(tmp_path).exists()


def test_a_manager_that_fails_is_quoted(machine, tmp_path):
    (tmp_path / "code").write_text("1")
    done, _ = machine("install")
    assert done.returncode == 1 and "failed" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["uninstall", "status"])
def test_nothing_is_installed(machine, command):
    done, told = machine(command)
    assert done.returncode == 1 and "no service is installed" in done.stderr and not told


@pytest.mark.parametrize(
    ("args", "named"),
    [(["--port", "x"], "--port"), (["--api-key", "s3cret"], "--api-key"), (["--nonsense"], "--nonsense")],
)
def test_bad_settings_are_refused_before_anything_is_written(machine, tmp_path, args, named):
    done, told = machine("install", *args)
    assert done.returncode == 2 and named in done.stderr and "s3cret" not in done.stderr
    assert not told and not installed(tmp_path).exists()


def test_a_mac_gets_an_agent():
    made = plan(["/bin/server"], platform="darwin", home=Path("/Users/x"), user=501)
    assert str(made.path).startswith("/Users/x/Library/LaunchAgents/")
    assert made.start[0][:3] == ("launchctl", "bootstrap", "gui/501")
    assert made.stop[0][1] == "bootout" and made.status[1] == "print"


def test_another_system_is_told_so():
    with pytest.raises(click.ClickException, match="win32"):
        plan([], platform="win32", home=Path("/"), user=0)


def test_paths_do_not_depend_on_where_the_command_ran(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keys").write_text("one\n")
    assert serving({"api_key_file": "keys"})[-2:] == ["--api-key-file", str(tmp_path / "keys")]
