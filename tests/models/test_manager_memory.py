from __future__ import annotations

import psutil
import pytest

from mlx_server_nano.config.models import Loading
from mlx_server_nano.errors import OutOfMemoryError
from mlx_server_nano.models.slot import ModelState
from tests.models.bench import GIB, Bench, read, start

pytestmark = pytest.mark.anyio


SIZE = 600 << 20
NEED = int(SIZE * 1.3)  # what `estimate` makes of it


async def test_the_least_recently_used_idle_model_makes_room(bench: Bench) -> None:
    for name in "abc":
        bench.model(name, weights_bytes=SIZE)
    async with bench.managed("a", "b", "c", max_memory=2 * NEED):
        await bench.use("a")
        await bench.use("b")
        await bench.use("a")
        await bench.use("c")
        assert bench.states() == {"a": ModelState.READY, "c": ModelState.READY}
        # The old worker was gone before the new load began.
        notes = [note for note in bench.notes("") if note.startswith(("load", "end"))]
        assert notes == ["load a", "load b", "end", "load c"]


async def test_a_model_in_use_is_never_unloaded(bench: Bench) -> None:
    bench.model("a", weights_bytes=SIZE), bench.model("b", weights_bytes=SIZE)
    async with bench.managed("a", "b", max_memory=NEED) as manager:
        async with manager.lease("a") as lease:
            with pytest.raises(
                OutOfMemoryError, match=r"b needs about 0.8 GiB, and 0.0 GiB are free .*: a\."
            ) as caught:
                await bench.use("b")
            assert caught.value.retry_after
            assert await read(start(lease, "count 1")) == "t0 "
        assert await bench.use("b") == "t0 t1 "
        assert bench.states() == {"b": ModelState.READY}
        assert bench.notes("load") == ["load a", "load b"]


async def test_a_model_larger_than_the_limit_is_refused_before_anything_is_unloaded(bench: Bench) -> None:
    bench.model("a"), bench.model("big", weights_bytes=4 * GIB)
    async with bench.managed("a", "big"):
        await bench.use("a")
        with pytest.raises(OutOfMemoryError, match=r"big needs about 5.2 GiB of memory, and 1.0 GiB is all"):
            await bench.use("big")
        assert bench.states() == {"a": ModelState.READY}
        assert bench.notes("load") == ["load a"]


async def test_what_a_worker_reports_counts_once_it_is_more(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.model("a"), bench.model("b")
    async with bench.managed("a", "b", max_memory=300 << 20):  # room for two by estimate
        await bench.use("a")
        await bench.use("b")
        assert set(bench.states()) == {"a", "b"}
    async with bench.managed("a", "b", max_memory=300 << 20) as manager:
        await bench.use("a", "count 2")
        monkeypatch.setattr(manager._slots[("a", Loading())].worker, "memory_bytes", 200 << 20)
        await bench.use("b")
        assert set(bench.states()) == {"b"}


async def test_the_limit_follows_the_device(bench: Bench) -> None:
    bench.model("a")
    async with bench.managed("a", max_memory=None) as manager:
        machine = manager.memory_limit
        assert 0 < machine <= psutil.virtual_memory().total
    async with bench.managed("a", max_memory=12345) as manager:
        assert manager.memory_limit == 12345


async def test_a_worker_is_kept_as_the_spare_if_its_model_does_not_fit(bench: Bench) -> None:
    bench.model("a"), bench.model("big", weights_bytes=4 * GIB)
    async with bench.managed("a", "big", spare_worker=True):
        for _ in range(3):
            with pytest.raises(OutOfMemoryError):
                await bench.use("big")
        await bench.use("a")
        assert bench.notes("load") == ["load a"]
    assert len(bench.notes("start")) <= 2


async def test_each_model_may_take_what_the_others_leave(bench: Bench) -> None:
    for name in "abc":
        bench.model(name, weights_bytes=SIZE)
    alone, beside = f"allow {2 * (NEED >> 20) + 100} MiB", f"allow {(NEED >> 20) + 100} MiB"
    async with bench.managed("a", "b", "c", max_memory=NEED * 2 + (100 << 20)):
        for name, heard in (("a", [alone]), ("b", [beside, beside]), ("c", [alone, beside, beside])):
            before = len(bench.notes("allow"))
            await bench.use(name)  # for c, a has to go, and b is alone for a while
            await bench.until(lambda: len(bench.notes("allow")) == before + len(heard))  # noqa: B023
            assert sorted(bench.notes("allow")[before:]) == sorted(heard)
