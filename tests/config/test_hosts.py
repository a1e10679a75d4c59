"""Host files of mlx.launch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlx_server_nano.config.hosts import Hosts, hostfile

TWO = [{"ssh": "one", "ips": ["10.0.0.1"]}, {"ssh": "two", "ips": ["10.0.0.2"]}]


@pytest.mark.parametrize("content", [TWO, {"backend": "ring", "envs": [], "hosts": TWO}])
def test_both_forms(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "hosts.json"
    path.write_text(json.dumps(content))
    assert hostfile().read(str(path)) == Hosts(path, 2)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not a JSON file"),
        ("{}", "not a host file"),
        (json.dumps({"hosts": [{"ips": []}, {}]}), "not a host file"),
        (json.dumps(TWO[:1]), "fewer than two hosts"),
        (json.dumps([{"ssh": "one"}, TWO[1]]), "without an address"),
    ],
)
def test_what_is_none(content: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "hosts.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=reason):
        hostfile().read(str(path))


def test_this_machine_alone() -> None:
    assert hostfile(may_be_none=True).read("none").ranks == 1
    with pytest.raises(ValueError, match="not a JSON file"):
        hostfile().read("none")
