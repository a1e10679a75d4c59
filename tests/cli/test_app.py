"""The command line as a process."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from mlx_server_nano import __version__
from mlx_server_nano.config import SETTINGS

ROOT = Path(__file__).parents[2]


def run(
    *args: str, module: str = "mlx_server_nano", python: Sequence[str] = (), **environment: str
) -> "subprocess.CompletedProcess[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLX_")}
    return subprocess.run(
        [sys.executable, *python, "-m", module, *args],
        env={**clean, "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.parametrize("args", [["--help"], ["-h"], ["serve", "--help"]])
def test_help_names_every_setting(args):
    done = run(*args)
    assert (done.returncode, done.stderr) == (0, "")
    words = done.stdout.replace(",", " ").replace("]", " ").split()
    for setting in SETTINGS:
        assert set(setting.flag.split("/")) <= set(words), setting.name
        assert setting.env is None or setting.env in words, setting.name
    assert "default 8000" in done.stdout
    assert "default 64M" in done.stdout


@pytest.mark.parametrize("module", ["mlx_server_nano", "mlx_server_nano.main"])
def test_version(module):
    done = run("--version", module=module)
    assert (done.returncode, done.stdout.split()[-1]) == (0, __version__)


@pytest.mark.parametrize("args", ["--help", "--version"])
def test_help_imports_little(args):
    done = run(args, python=["-X", "importtime"])
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "click" in imported
    assert not imported & {"mlx", "mlx.core", "transformers", "starlette", "uvicorn", "huggingface_hub", "asyncio"}


@pytest.mark.parametrize(
    ("args", "environment", "named"),
    [
        (["--port", "abc"], {}, "--port"),
        (["--port", "70000"], {}, "--port"),
        (["--port=-1"], {}, "--port"),
        (["serve", "--port", "abc"], {}, "--port"),
        (["--log-level", "loud"], {}, "--log-level"),
        (["--port"], {}, "--port"),
        (["--prot", "1"], {}, "--prot"),
        (["--model-map", "claude-*"], {}, "--model-map"),
        ([], {"MLX_MODEL_MAP": "a=b,=c"}, "MLX_MODEL_MAP"),
        (["--default-temperature", "nan"], {}, "--default-temperature"),
        (["--alias", "fast"], {}, "--alias"),
        (["--alias", "a=b", "--alias", "b=a"], {}, "--alias"),
        (["--alias", "a=no model"], {}, "no model"),
        ([], {"MLX_ALIAS": "a=b", "MLX_MODEL_MAP": "a=c"}, "--model-map"),
        (["--tool-format", "*=nothing"], {}, "--tool-format"),
        (["--config", "/nowhere.toml"], {}, "/nowhere.toml: No such file"),
        ([], {"MLX_CONFIG": "/nowhere.toml"}, "/nowhere.toml: No such file"),
        (["nonsense"], {}, "nonsense"),
        (["serve", "nonsense"], {}, "nonsense"),
        ([], {"MLX_SERVER_PORT": "abc"}, "MLX_SERVER_PORT"),
        ([], {"MLX_MODEL_IDLE_TIMEOUT": "-1"}, "MLX_MODEL_IDLE_TIMEOUT"),
        ([], {"MLX_SPARE_WORKER": "perhaps"}, "MLX_SPARE_WORKER"),
        (["--idle-timeout", "x"], {"MLX_MODEL_IDLE_TIMEOUT": "10"}, "--idle-timeout"),
    ],
)
def test_bad_values_are_one_line(args, environment, named):
    done = run(*args, **environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("mlx-server-nano: ")
    assert named in done.stderr


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prot = 1", "unknown key 'prot'; did you mean 'port'?"),
        ("alias = ['a=no model']", "'no model', which can be no model's name"),
        ("[models.'no model']", "models.\"no model\": 'no model' is no alias and can be no model's name"),
        ("alias = ['a=b']\n[models.a]\ntrust-remote-code = true", 'models."a".trust-remote-code: the code is that of'),
        ("[models.a]\nadapter = 'poet'", "models.\"a\".adapter: 'poet' is neither a folder's path"),
        ("[models.a]\ntool-format = 'x'", "models.\"a\".tool-format: there is no format 'x'"),
    ],
)
def test_a_bad_configuration_file_is_one_line(tmp_path, text, told):
    file = tmp_path / "nano.toml"
    file.write_text(text)
    done = run("--config", str(file))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert told in done.stderr


def test_port_in_use():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = run("--host", "127.0.0.1", "--port", port)
    assert done.returncode == 1
    assert done.stderr == f"mlx-server-nano: cannot listen on 127.0.0.1:{port}: Address already in use\n"


def test_unknown_host():
    done = run("--host", "host.invalid")
    assert done.returncode == 1
    assert done.stderr.startswith("mlx-server-nano: cannot listen on host.invalid:8000: ")
