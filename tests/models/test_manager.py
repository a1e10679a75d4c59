from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from mlx_server_nano.config import Settings
from mlx_server_nano.config.models import Loading, ModelOptions, RequestDefaults
from mlx_server_nano.errors import (
    GenerationError,
    ModelInUseError,
    ModelNotFoundError,
    OutOfMemoryError,
    QueueFullError,
    UnavailableError,
    UnsupportedModelError,
    WorkerDiedError,
)
from mlx_server_nano.models.loading import ModelFiles, load_options
from mlx_server_nano.models.names import ModelKind, ModelRef
from mlx_server_nano.models.slot import ModelState
from tests.models import fake_worker
from tests.models.bench import GIB, Bench, read, start
from tests.models.conftest import Children

pytestmark = pytest.mark.anyio


async def test_a_lease_loads_the_model_and_gives_its_canonical_name(bench: Bench) -> None:
    bench.model("a")
    async with bench.managed("a") as manager, manager.lease("a") as lease:
        assert lease.model_id == "a"
        assert lease.info == fake_worker.INFO
        assert await read(start(lease, "count 2")) == "t0 t1 "
        (status,) = manager.status()
        assert (status.state, status.progress, status.running, status.idle_seconds_left) == (
            ModelState.READY,
            1.0,
            0,
            None,
        )
        assert status.memory_bytes > 128 << 20 and status.loaded_since is not None
        assert (status.waiting, status.kv_bytes, status.prefix_cache_bytes) == (0, 5, 7)
    assert manager.status() == []
    counts = manager.counts["a"]
    assert (manager.worker_starts, counts.loads, counts.crashes) == (1, 1, 0)
    assert counts.load_seconds > 0
    assert 3 * counts.accepted_tokens == 2 * counts.drafted_tokens > 0


async def test_requests_share_one_load(bench: Bench) -> None:
    go = bench.model("a", "wait") / "go"
    async with bench.managed("a"):
        using = [asyncio.create_task(bench.use("a")) for _ in range(5)]
        await bench.until(lambda: bench.notes("load") != [])
        await bench.until(lambda: bench.manager.status()[0].progress == 0.5)
        assert bench.states() == {"a": ModelState.LOADING}
        go.touch()
        assert await asyncio.gather(*using) == ["t0 t1 "] * 5
        assert bench.notes("load") == ["load a"]


async def test_a_load_goes_on_when_those_who_wait_leave(bench: Bench) -> None:
    go = bench.model("a", "wait") / "go"
    async with bench.managed("a"):
        leaving, staying = (asyncio.create_task(bench.use("a")) for _ in range(2))
        await bench.until(lambda: bench.notes("load") != [])
        leaving.cancel()
        await asyncio.wait({leaving})
        go.touch()
        assert await staying == "t0 t1 "

        go.unlink()
    bench.log.unlink()
    async with bench.managed("a"):
        only = asyncio.create_task(bench.use("a"))
        await bench.until(lambda: bench.notes("load") != [])
        only.cancel()
        await asyncio.wait({only})
        go.touch()
        await bench.until(lambda: bench.states() == {"a": ModelState.READY})
        (status,) = bench.manager.status()
        assert status.idle_seconds_left is not None


async def test_a_failed_load_reaches_all_who_wait_and_is_tried_again(bench: Bench) -> None:
    script = bench.model("a", "fail") / "script"
    async with bench.managed("a"):
        errors = await asyncio.gather(*(bench.use("a") for _ in range(3)), return_exceptions=True)
        assert [(type(error), str(error)) for error in errors] == [
            (UnsupportedModelError, "this model is made to fail")
        ] * 3
        assert len(bench.notes("load")) == 1
        script.write_text("ok")
        assert await bench.use("a") == "t0 t1 "


async def test_a_crash_while_loading(bench: Bench) -> None:
    script = bench.model("a", "crash") / "script"
    async with bench.managed("a"):
        with pytest.raises(WorkerDiedError, match="SIGKILL"):
            await bench.use("a")
        script.write_text("ok")
        assert await bench.use("a") == "t0 t1 "
        assert (bench.manager.counts["a"].crashes, bench.manager.counts["a"].loads) == (1, 1)


async def test_a_crash_ends_its_own_requests_and_no_others(bench: Bench) -> None:
    bench.model("a"), bench.model("b")
    async with bench.managed("a", "b") as manager, manager.lease("b") as other:
        running = start(other, "hold")
        await running.next()
        with pytest.raises(WorkerDiedError, match="SIGKILL"):
            await bench.use("a", "crash")
        assert bench.states() == {"b": ModelState.READY}
        assert await bench.use("a") == "t0 t1 "
        assert await read(start(other, "count 1")) == "t0 "
        assert not running.finished


async def test_a_worker_killed_while_idle_is_replaced_by_the_next_request(bench: Bench, children: Children) -> None:
    bench.model("a")
    async with bench.managed("a"):
        await bench.use("a")
        (worker,) = children()
        os.kill(worker.pid, signal.SIGKILL)
        await bench.until(lambda: bench.manager.status() == [])
        assert await bench.use("a") == "t0 t1 "
        assert (bench.manager.counts["a"].crashes, bench.manager.worker_starts) == (1, 2)


async def test_a_request_that_fails_leaves_the_worker_alone(bench: Bench) -> None:
    bench.model("a")
    async with bench.managed("a"):
        with pytest.raises(GenerationError, match="made to fail"):
            await bench.use("a", "fail")
        await bench.use("a")
        assert len(bench.notes("start")) == 1


async def test_the_end_of_a_lease_cancels_what_is_unfinished(bench: Bench) -> None:
    bench.model("a")
    async with bench.managed("a") as manager:
        async with manager.lease("a") as lease:
            await start(lease, "hold").next()
        await bench.until(lambda: bench.notes("cancel") == ["cancel 1"])


async def test_an_idle_model_is_unloaded_and_one_in_use_is_not(bench: Bench) -> None:
    bench.model("a"), bench.model("b")
    async with bench.managed("a", "b", idle_timeout=0.05) as manager, manager.lease("a"):
        await bench.use("b")
        await bench.until(lambda: bench.states() == {"a": ModelState.READY})
        await bench.until(lambda: bench.notes("end") == ["end"])
        assert await bench.use("b") == "t0 t1 "


async def test_a_model_may_write_its_prefixes_to_disk_before_it_is_unloaded(bench: Bench, tmp_path: Path) -> None:
    bench.model("a")
    async with bench.managed("a", idle_timeout=0.05, prefix_cache_dir=tmp_path / "prefixes") as manager:
        await bench.use("a")
        await bench.until(lambda: manager.status() == [])
        assert bench.notes("unload") == ["unload within 10"]
        await bench.use("a")
    assert bench.notes("unload") == ["unload within 10"] * 2
    bench.log.unlink()
    async with bench.managed("a"):
        await bench.use("a")
    assert bench.notes("unload") == []


async def test_an_idle_timeout_of_zero_means_never(bench: Bench) -> None:
    bench.model("a")
    async with bench.managed("a", idle_timeout=0) as manager:
        await bench.use("a")
        (status,) = manager.status()
        assert (status.state, status.idle_seconds_left) == (ModelState.READY, None)


async def test_a_models_own_idle_timeout(bench: Bench) -> None:
    bench.model("a"), bench.model("b")
    tables = [(name, ModelOptions(loading=Loading(idle_timeout=seconds))) for name, seconds in (("a", 0), ("b", 0.05))]
    async with bench.managed("a", "b", idle_timeout=300, models=tables):
        await bench.use("a")
        await bench.use("b")
        await bench.until(lambda: bench.states() == {"a": ModelState.READY})
        (status,) = bench.manager.status()
        assert status.idle_seconds_left is None


async def test_pinned_models_are_loaded_at_the_start_and_stay(bench: Bench) -> None:
    bench.model("a", weights_bytes=100 << 20), bench.model("b", weights_bytes=100 << 20)
    pin = ModelOptions(loading=Loading(pinned=True))
    models = [("a", pin), ("gone", pin)]
    async with bench.managed("a", "b", idle_timeout=0.01, max_memory=300 << 20, models=models, alias=[("gone", "/x")]):
        await bench.until(lambda: bench.states() == {"a": ModelState.READY})
        await bench.use("a")
        (status,) = bench.manager.status()
        assert status.idle_seconds_left is None
        with pytest.raises(OutOfMemoryError, match="in use or pinned: a"):
            await bench.use("b")
        assert bench.states() == {"a": ModelState.READY}


async def test_names_of_one_model_share_it_unless_they_load_it_in_another_way(bench: Bench) -> None:
    bench.model("a")
    aliases = [("same", "a"), ("calm", "a"), ("long", "a"), ("longer", "long")]
    models = [
        ("calm", ModelOptions(requests=RequestDefaults(temperature=0, max_tokens=7))),
        ("long", ModelOptions(loading=Loading(context_length=5))),
    ]
    async with bench.managed("a", alias=aliases, models=models, default_max_tokens=3, default_temperature=1) as manager:
        async with manager.lease("calm") as calm, manager.lease("same") as same:
            assert calm.defaults == RequestDefaults(temperature=0, max_tokens=7)
            assert same.defaults == RequestDefaults(temperature=1, max_tokens=3)
            assert calm.model_id == same.model_id == "a"
        assert bench.states().keys() == {"a"}
        for name in ("longer", "long", "a"):
            await bench.use(name)
        assert bench.states().keys() == {"a", "long"}
        assert len(bench.notes("load")) == 2


async def test_an_alias_hides_the_model_of_its_name(bench: Bench) -> None:
    bench.model("a"), bench.model("b")
    async with bench.managed("a", "b", alias=[("a", "b"), ("x", "b")]):
        await bench.use("x")
        await bench.use("a")
        assert bench.states().keys() == {"b"}


async def test_choices_beyond_batch_and_queue_are_refused(bench: Bench) -> None:
    bench.model("a")
    async with bench.managed("a", max_batch_size=2, max_queue=2) as manager, manager.lease("a") as lease:
        start(lease, "hold", n=2)
        second = start(lease, "hold")
        async with manager.lease("a") as other:
            start(other, "hold")
            with pytest.raises(QueueFullError, match="4 unfinished choices of 4") as caught:
                start(other, "hold")
            assert caught.value.retry_after == 1
        second.cancel()
        with pytest.raises(QueueFullError):
            start(lease, "hold", n=3)
        assert await read(start(lease, "count 1", n=2)) == "t0 t0 "


async def test_a_request_of_more_choices_than_the_queue_holds_runs_alone(bench: Bench) -> None:
    bench.model("a")
    async with bench.managed("a", max_batch_size=1, max_queue=0) as manager, manager.lease("a") as lease:
        assert await read(start(lease, "count 1", n=3)) == "t0 t0 t0 "


async def test_draining_refuses_new_leases_and_lets_given_ones_go_on(bench: Bench) -> None:
    go = bench.model("a", "wait") / "go"
    async with bench.managed("a") as manager:
        waiting = asyncio.create_task(bench.use("a"))
        await bench.until(lambda: bench.notes("load") != [])
        manager.drain()
        assert manager.draining
        with pytest.raises(UnavailableError, match="shutting down"):
            await bench.use("a")
        go.touch()
        assert await waiting == "t0 t1 "


async def test_close_ends_whatever_goes_on(bench: Bench, children: Children) -> None:
    bench.model("a"), bench.model("slow", "wait")
    async with AsyncExitStack() as stack, bench.managed("a", "slow", spare_worker=True) as manager:
        loading = asyncio.create_task(bench.use("slow"))
        await bench.until(lambda: bench.notes("load") == ["load slow"])
        running = start(await stack.enter_async_context(manager.lease("a")), "hold")
        await running.next()
        await manager.close()
        with pytest.raises(UnavailableError, match="shutting down"):
            await loading
        with pytest.raises(WorkerDiedError, match="was stopped"):
            await running.next()
        assert children() == []


async def test_close_while_the_spare_starts(bench: Bench) -> None:
    bench.start_file.write_text("silent")
    async with bench.managed(spare_worker=True):
        await bench.until(lambda: bench.notes("start") != [])


async def test_the_spare_worker_gets_the_model_and_another_takes_its_place(bench: Bench, children: Children) -> None:
    bench.model("a")
    async with bench.managed("a", spare_worker=True):
        await bench.until(lambda: len(children()) == 1)
        (spare,) = children()
        await bench.use("a")
        assert f"{spare.pid} load a" in bench.log.read_text()
        await bench.until(lambda: len(bench.notes("start")) == 2)


async def test_without_workers_there_is_a_problem_until_one_starts_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlx_server_nano.models.spares.FIRST_DELAY", 0.05)
    bench.model("a")
    bench.start_file.write_text("die")
    async with bench.managed("a") as manager:
        for _ in range(2):
            with pytest.raises(UnavailableError, match=r"No worker process can be started. .* exit code 7"):
                await bench.use("a")
            assert manager.problem is not None
        bench.start_file.write_text("ready")
        await bench.until(lambda: manager.problem is None)
        assert await bench.use("a") == "t0 t1 "


async def test_unknown_names_start_nothing(bench: Bench) -> None:
    async with bench.managed() as manager:
        for name in ("", "/nowhere", "a b", "x/y/z"):
            with pytest.raises(ModelNotFoundError):
                await bench.use(name)
        assert manager.status() == []


async def test_unloading_gives_the_memory_back(bench: Bench, children: Children) -> None:
    bench.model("a")
    async with bench.managed("a", alias=(("x", "a"),)) as manager:
        await bench.use("a")
        assert manager.memory_in_use > 128 << 20
        assert await manager.unload("x") == "a"
        assert (manager.status(), manager.memory_in_use) == ([], 0)
        assert children() == []
        for name in ("a", "org/never"):
            with pytest.raises(ModelNotFoundError, match="is not loaded"):
                await manager.unload(name)
        assert await bench.use("a") == "t0 t1 "


async def test_a_model_in_use_is_unloaded_by_force_alone(bench: Bench) -> None:
    bench.model("a")
    async with bench.managed("a") as manager, manager.lease("a") as lease:
        running = start(lease, "hold")
        await running.next()
        with pytest.raises(ModelInUseError, match="1 request"):
            await manager.unload("a")
        assert await manager.unload("a", force=True) == "a"
        with pytest.raises(WorkerDiedError, match="was stopped"):
            await running.next()
        assert bench.states() == {}
        assert await bench.use("a") == "t0 t1 "


async def test_a_pinned_model_is_unloaded_by_force_alone(bench: Bench) -> None:
    bench.model("a")
    async with bench.managed("a", models=[("a", ModelOptions(loading=Loading(pinned=True)))]) as manager:
        await bench.until(lambda: bench.states() == {"a": ModelState.READY})
        assert manager.status()[0].pinned
        with pytest.raises(ModelInUseError, match="pinned"):
            await manager.unload("a")
        assert await manager.unload("a", force=True) == "a"
        assert bench.states() == {}


@pytest.mark.parametrize("close", [False, True])
async def test_a_load_that_is_called_off_before_it_has_begun_leaves_nobody_waiting(bench: Bench, close: bool) -> None:
    bench.model("a")
    async with bench.managed("a") as manager:
        slot, _ = await manager._slot("a")
        await (manager.close() if close else manager.unload("a", force=True))
        with pytest.raises(UnavailableError, match="shutting down" if close else "unloaded"):
            async with asyncio.timeout(10):
                await slot.ready
        assert manager.status() == []
        if not close:
            assert await bench.use("a") == "t0 t1 "
    assert bench.notes("load") == ([] if close else ["load a"])


async def test_unloading_ends_a_load(bench: Bench, children: Children) -> None:
    go = bench.model("a", "wait") / "go"
    async with bench.managed("a") as manager:
        waiting = asyncio.create_task(bench.use("a"))
        await bench.until(lambda: bench.notes("load") != [])
        with pytest.raises(ModelInUseError):
            await manager.unload("a")
        assert await asyncio.gather(*(manager.unload("a", force=True) for _ in range(2))) == ["a", "a"]
        with pytest.raises(UnavailableError, match="a was unloaded before it was ready"):
            await waiting
        assert (bench.states(), children()) == ({}, [])
        go.touch()
        assert await bench.use("a") == "t0 t1 "


async def test_an_ended_load_leaves_no_room_taken(bench: Bench) -> None:
    """It had begun to make room."""
    bench.model("a", weights_bytes=GIB // 2), bench.model("b", "wait", weights_bytes=GIB // 2)
    bench.model("c", weights_bytes=GIB // 2)
    async with bench.managed("a", "b", "c") as manager:
        await bench.use("a")
        waiting = asyncio.create_task(bench.use("b"))
        await bench.until(lambda: "a" not in bench.states() or bench.states()["a"] is ModelState.UNLOADING)
        await manager.unload("b", force=True)
        with pytest.raises(UnavailableError):
            await waiting
        assert await bench.use("c") == "t0 t1 "


async def test_a_load_is_told_until_it_is_ready(bench: Bench) -> None:
    go = bench.model("a", "wait") / "go"
    async with bench.managed("a") as manager:
        seen = []
        async for status in manager.load("a"):
            seen.append((status.state, status.progress, status.context_length))
            if status.progress == 0.5:
                go.touch()
        assert (ModelState.LOADING, 0.5, None) in seen
        assert seen[-1] == (ModelState.READY, 1.0, fake_worker.INFO.context_length)
        assert [status.state async for status in manager.load("a")] == [ModelState.READY]
        bench.model("b", "fail")
        with pytest.raises(ModelNotFoundError):
            [_ async for _ in manager.load("/nowhere")]
        await manager.unload("a")


async def test_a_worker_may_run_the_code_of_trusted_models_alone(tmp_path: Path) -> None:
    files = ModelFiles(tmp_path, None, None)
    for trusted in (False, True):
        options = load_options(Settings(), ModelRef("org/mine", ModelKind.HUB, None), files, trusted=trusted)
        assert options.trust_remote_code is trusted
