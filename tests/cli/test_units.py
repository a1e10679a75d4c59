"""The files of systemd and launchd."""

import plistlib
import shutil
import subprocess

import pytest

from mlx_server_nano.cli.units import launchd_agent, systemd_unit


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("plain", '"plain"'),
        ("two words", '"two words"'),
        ('"', '"\\""'),
        ("a\\b", '"a\\\\b"'),
        ("50%", '"50%%"'),
        ("$HOME", '"$$HOME"'),
    ],
)
def test_a_unit_starts_exactly_the_command(word, written):
    assert f'ExecStart="/bin/server" {written}\n' in systemd_unit(["/bin/server", word])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not on this machine")
def test_systemd_finds_no_fault(tmp_path):
    path = tmp_path / "mlx-server-nano.service"
    path.write_text(systemd_unit([shutil.which("true") or "/bin/true", "--port", "9000", "50% of $HOME"]))
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", str(path)], capture_output=True, text=True, check=False
    )
    assert str(path.name) not in done.stderr, done.stderr


def test_an_agent_is_a_property_list_of_the_command():
    read = plistlib.loads(launchd_agent(["/bin/server", "--config", "/a <b> & c.toml"], "/tmp/x.log"))
    assert read["ProgramArguments"] == ["/bin/server", "--config", "/a <b> & c.toml"]
    assert read["RunAtLoad"] is True and read["KeepAlive"] == {"SuccessfulExit": False}
    assert read["StandardErrorPath"] == "/tmp/x.log"
