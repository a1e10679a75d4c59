"""Which of flag, environment, file and default counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlx_server_nano.config import SettingError, Settings, resolve


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "nano.toml"
    path.write_text(
        """
        port = 1
        idle-timeout = 1
        max-batch-size = 1
        spare-worker = false
        model-map = ["a*=b"]
        alias = ["x=from-file"]
        [models."org/m"]
        alias = ["m", "x2"]
        """
    )
    return path


def test_flag_over_environment_over_file_over_default(file: Path) -> None:
    flags = {"config": str(file), "port": "3", "idle_timeout": None}
    variables = {
        "MLX_SERVER_PORT": "2",
        "MLX_MODEL_IDLE_TIMEOUT": "2",
        "MLX_SPARE_WORKER": "true",
        "MLX_CONFIG": "/nowhere",
    }
    settings = resolve(flags, variables)
    assert (settings.port, settings.idle_timeout, settings.max_batch_size, settings.max_queue) == (3, 2.0, 1, 512)
    assert (settings.spare_worker, settings.model_map, settings.config) == (True, (("a*", "b"),), file)
    assert [name for name, _ in settings.models] == ["org/m"]


def test_the_file_may_come_from_the_environment(file: Path) -> None:
    assert resolve({}, {"MLX_CONFIG": str(file)}).port == 1
    assert resolve({}, {"MLX_CONFIG": ""}) == Settings()


def test_aliases_of_flags_replace_the_list_of_the_file_and_beat_those_of_its_tables(file: Path) -> None:
    assert resolve({"config": str(file)}, {}).alias == (("x", "from-file"), ("m", "org/m"), ("x2", "org/m"))
    flags = {"config": str(file), "alias": "m=org/other"}
    assert resolve(flags, {}).alias == (("m", "org/other"), ("x2", "org/m"))


def test_circles_are_told_with_where_they_are(file: Path) -> None:
    with pytest.raises(SettingError, match=r"^--alias: m = m goes"):
        resolve({"config": str(file), "alias": "m=m"}, {})
    file.write_text('alias = ["a=b", "b=a"]')
    with pytest.raises(SettingError, match=r"nano.toml: alias: a = b = a goes"):
        resolve({"config": str(file)}, {})
