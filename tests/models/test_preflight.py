from __future__ import annotations

import subprocess
import sys

import pytest

from mlx_server_nano.models.preflight import installation_problem


@pytest.mark.parametrize(
    ("platform", "installed", "says"),
    [
        ("darwin", {"mlx"}, None),
        ("darwin", set(), "pip install 'mlx'"),
        ("linux", {"mlx", "mlx-cpu"}, None),
        ("linux", {"mlx", "mlx-cuda-13"}, None),
        ("linux", {"mlx"}, "no CPU or CUDA part"),
        ("linux", set(), "pip install 'mlx[cpu]'"),
        (
            "linux",
            {"mlx", "mlx-cpu", "mlx-cuda-13"},
            "pip uninstall -y mlx-cpu mlx-cuda-13, then pip install --force-reinstall --no-deps mlx-cuda-13 (or mlx-cpu)",
        ),
        ("linux", {"mlx", "mlx-cuda-12", "mlx-cuda-13"}, "pip uninstall -y mlx-cuda-13 mlx-cuda-12"),
    ],
)
def test_says_in_one_line_what_to_do(platform: str, installed: set[str], says: str | None) -> None:
    problem = installation_problem(platform, installed.__contains__)
    if says is None:
        assert problem is None
    else:
        assert problem is not None and says in problem and "\n" not in problem


def test_this_environment_is_sound_and_looking_imports_nothing() -> None:
    code = (
        "import sys; from mlx_server_nano.models.preflight import installation_problem; print(installation_problem());"
        "print([name for name in ('mlx', 'mlx_lm', 'transformers', 'huggingface_hub') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_environment())
    assert run.stdout.splitlines() == ["None", "[]"]


def test_the_gateway_side_imports_neither_mlx_nor_the_hub() -> None:
    code = (
        "import sys, mlx_server_nano.models.manager, mlx_server_nano.models.catalog;"
        "print([name for name in ('mlx', 'mlx_lm', 'transformers', 'huggingface_hub', 'httpx') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_environment())
    assert run.stdout.strip() == "[]"


def _environment() -> dict[str, str]:
    import os

    from tests.models.conftest import SOURCE

    return {**os.environ, "PYTHONPATH": str(SOURCE)}
