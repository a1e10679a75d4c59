"""What is built for those who install: built without a network, and tried from where it was unpacked."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from mlx_server_nano import __version__

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=100,
    )
    return folder


def test_the_wheel_holds_the_package_alone_and_runs(built, tmp_path):
    with zipfile.ZipFile(built / f"mlx_server_nano-{__version__}-py3-none-any.whl") as wheel:
        names = wheel.namelist()
        wheel.extractall(tmp_path)
    assert {name.split("/")[0] for name in names} == {"mlx_server_nano", f"mlx_server_nano-{__version__}.dist-info"}
    assert {"mlx_server_nano/py.typed", "mlx_server_nano/demo/model.safetensors"} <= set(names)
    page = {f"mlx_server_nano/web/{path.name}" for path in (ROOT / "src/mlx_server_nano/web").iterdir()}
    assert "mlx_server_nano/web/index.html" in page and page <= set(names)
    assert not [name for name in names if "__pycache__" in name]
    entry = (tmp_path / f"mlx_server_nano-{__version__}.dist-info" / "entry_points.txt").read_text()
    assert "mlx-server-nano = mlx_server_nano.main:main" in entry

    program = """from mlx_server_nano.main import main
from mlx_server_nano.models.catalog import BUILT_IN
print(BUILT_IN["demo"])
main(["--version"])"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    folder, version = done.stdout.splitlines()
    assert Path(folder).is_relative_to(tmp_path) and Path(folder, "tokenizer.json").exists()
    assert version.endswith(__version__)


def test_the_source_distribution_builds_the_same(built):
    with tarfile.open(built / f"mlx_server_nano-{__version__}.tar.gz") as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "src/mlx_server_nano/demo/config.json"} <= names
    assert not [name for name in names if name.startswith(("tests", "training", ".ci"))]
