"""Which models run on several machines, and with what."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from mlx_server_nano.config import Settings
from mlx_server_nano.config.hosts import Hosts
from mlx_server_nano.config.models import Loading, ModelOptions
from mlx_server_nano.errors import OutOfMemoryError, UnavailableError, UnsupportedModelError
from mlx_server_nano.models import distributed
from mlx_server_nano.models.names import ModelKind, ModelRef
from mlx_server_nano.protocol import LoadOptions
from tests.models import fake_worker
from tests.models.bench import Bench

HOSTS, OTHERS, NONE = Hosts(Path("/hosts.json"), 2), Hosts(Path("/others.json"), 3), Hosts(Path(), 1)
SIZE = 600 << 20


@pytest.mark.parametrize(
    ("of_all", "own", "expected"),
    [(None, None, None), (HOSTS, None, HOSTS), (HOSTS, OTHERS, OTHERS), (None, OTHERS, OTHERS), (HOSTS, NONE, None)],
)
def test_a_models_own_hosts_come_first(of_all: Hosts | None, own: Hosts | None, expected: Hosts | None) -> None:
    ref = ModelRef("org/m", ModelKind.HUB, None, options=ModelOptions(loading=Loading(distributed=own)))
    assert distributed.hosts_of(ref, Settings(distributed=of_all)) == expected


def test_the_command() -> None:
    command = distributed.launch_command(HOSTS, Settings(log_level="DEBUG"))
    assert "/hosts.json" in command and "--env=HF_HUB_OFFLINE=1" in command and "DEBUG" in command


def test_what_is_switched_off() -> None:
    asked = LoadOptions(log_name="m", draft_folder="/draft", prefix_cache_dir="/cache", kv_bits=8)
    assert distributed.restricted(asked) == LoadOptions(log_name="m", speculation=False, kv_bits=8)


@pytest.mark.parametrize("fields", [{"adapter": "/adapter"}, {"draft_required": True}])
def test_what_was_asked_for_by_name_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModelError, match=r"one machine: set distributed"):
        distributed.restricted(LoadOptions(log_name="m", **fields))


@pytest.mark.anyio
async def test_each_machine_takes_its_part_of_the_memory(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.model("large", weights_bytes=2 * SIZE), bench.model("small", weights_bytes=10)
    command = (sys.executable, "-P", fake_worker.__file__, "--log", str(bench.log))
    monkeypatch.setattr(distributed, "launch_command", lambda hosts, settings: command)
    async with bench.managed("large", "small", distributed=HOSTS):
        await bench.use("large")
        (slot,) = bench.manager._slots.values()
        assert SIZE < slot.memory_bytes < 2 * SIZE
    async with bench.managed("large"):
        with pytest.raises(OutOfMemoryError):
            await bench.use("large")


@pytest.mark.anyio
async def test_machines_that_do_not_find_each_other() -> None:
    with pytest.raises(UnavailableError, match="exit code 3"):
        await distributed.start([sys.executable, "-c", "raise SystemExit(3)"])
