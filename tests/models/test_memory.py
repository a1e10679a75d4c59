from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from mlx_server_nano.models import memory
from mlx_server_nano.models.memory import estimate, gibibytes, memory_limit

GIB = 1 << 30


def test_the_operator_decides_then_the_device_then_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory_limit(7, 100) == 7
    assert memory_limit(None, 100) == 75
    monkeypatch.setattr(memory, "_CGROUP_LIMIT", tmp_path / "absent")
    assert memory_limit(None, None) == int(0.75 * psutil.virtual_memory().total)


@pytest.mark.parametrize(("text", "expected"), [("1000\n", 750), ("max\n", None)])
def test_a_container_limits_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: int | None
) -> None:
    (tmp_path / "memory.max").write_text(text)
    monkeypatch.setattr(memory, "_CGROUP_LIMIT", tmp_path / "memory.max")
    assert memory_limit(None, None) == (expected or int(0.75 * psutil.virtual_memory().total))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (1000, 1050 + (128 << 20)),
        (4 * GIB, int(4.2 * GIB) + 1 * GIB),
        (100 * GIB, 105 * GIB + 2 * GIB),
    ],
)
def test_estimate_adds_a_bounded_margin(weights: int, expected: int) -> None:
    assert estimate(weights) == expected


def test_gibibytes() -> None:
    assert gibibytes(3 * GIB // 2) == "1.5 GiB"
