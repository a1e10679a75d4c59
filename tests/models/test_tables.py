from __future__ import annotations

from pathlib import Path

import pytest

from mlx_server_nano.config.models import ModelOptions, RequestDefaults
from mlx_server_nano.models.tables import Tables


def options(number: int) -> ModelOptions:
    return ModelOptions(requests=RequestDefaults(top_k=number))


@pytest.mark.parametrize(
    ("model", "number"),
    [
        ("org/Qwen3-4B-4bit", 5),
        ("Other/qwen3-4b-4bit", 3),
        ("Other/Qwen3-4B-8bit", 1),
        ("Other/Qwen3-4B", 1),
        ("Other/Qwen3-4B-Instruct", None),
        ("/models/mine", 4),
        ("/models/qwen3-4b", None),
        ("demo", 2),
        ("qwen3-4b", 1),
    ],
)
def test_the_most_exact_name_counts(model: str, number: int | None) -> None:
    names = ["qwen3-4b", "demo", "Qwen3-4B-4bit", "/models/mine/", "ORG/qwen3-4b-4bit"]
    tables = Tables([(name, options(i)) for i, name in enumerate(names, start=1)])
    assert tables.of(model).requests.top_k == number


def test_relative_and_home_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    tables = Tables([("./a", options(1)), ("~/b", options(2))])
    assert tables.of(str(tmp_path / "a")) == options(1)
    assert tables.of(str(tmp_path / "b")) == options(2)


def test_a_name_by_itself() -> None:
    tables = Tables([("calm", options(1))])
    assert list(tables) == ["calm"] and "calm" in tables and "Calm" not in tables
    assert tables.under("calm") == options(1)
    assert tables.under("other") == ModelOptions()
