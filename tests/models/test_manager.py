from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlx_server_nano.config import Settings
from mlx_server_nano.errors import (
    GenerationError,
    ModelNotFoundError,
    OutOfMemoryError,
    QueueFullError,
    ServerError,
    UnavailableError,
    UnsupportedModelError,
    WorkerDiedError,
)
from mlx_server_nano.models.catalog import Catalog
from mlx_server_nano.models.generation import Generation
from mlx_server_nano.models.lease import Lease
from mlx_server_nano.models.manager import Manager
from mlx_server_nano.models.slot import ModelState
from mlx_server_nano.protocol import Delta
from mlx_server_nano.types import GenerationRequest, Sampling, TextPrompt
from tests.hub_standin import HubStandin
from tests.models import fake_worker
from tests.models.folders import write_model, write_sparse
from tests.tiny_models import make_model

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("child_path")]

GIB = 1 << 30


@pytest.fixture
def no_orphans() -> Iterator[None]:
    yield
    assert psutil.Process().children(recursive=True) == []


class Bench:
    """A manager over models that the fake worker serves, by the names of their folders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.start_file = folder / "start"
        self.start_file.write_text("ready")
        self.manager: Manager

    def model(self, name: str, script: str = "ok", *, weights_bytes: int = 1000) -> Path:
        folder = write_sparse(self.folder / name, weights_bytes)
        (folder / "script").write_text(script)
        return folder

    @asynccontextmanager
    async def managed(self, *names: str, **settings: Any) -> AsyncIterator[Manager]:
        settings = {"max_memory": GIB, "spare_worker": False, **settings}
        catalog = Catalog(cache_dir=self.folder / "cache", built_in={name: self.folder / name for name in names})
        command = [sys.executable, "-P", fake_worker.__file__, "--log", self.log, "--start-file", self.start_file]
        self.manager = Manager(Settings(**settings), catalog, command=[str(part) for part in command])
        await self.manager.start()
        try:
            yield self.manager
        finally:
            await self.manager.close()

    def notes(self, word: str) -> list[str]:
        """What the workers have noted that begins with a word, without their process ids."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [note for line in lines if (note := line.split(" ", 1)[1]).startswith(word)]

    def states(self) -> dict[str, ModelState]:
        return {status.id: status.state for status in self.manager.status()}

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not true():
                await asyncio.sleep(0.01)

    async def use(self, name: str, prompt: str = "count 2") -> str:
        async with self.manager.lease(name) as lease:
            return await read(start(lease, prompt))


@pytest.fixture
def bench(tmp_path: Path, no_orphans: None) -> Bench:
    return Bench(tmp_path)


def start(lease: Lease, prompt: str, n: int = 1) -> Generation:
    return lease.generate(GenerationRequest(prompt=TextPrompt(text=prompt), n=n))


async def read(generation: Generation) -> str:
    text = ""
    while not generation.finished:
        for event in await generation.next():
            text += event.text if isinstance(event, Delta) else ""
    return text


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
    assert manager.status() == []


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


async def test_a_worker_killed_while_idle_is_replaced_by_the_next_request(bench: Bench) -> None:
    bench.model("a")
    async with bench.managed("a"):
        await bench.use("a")
        (worker,) = psutil.Process().children()
        os.kill(worker.pid, signal.SIGKILL)
        await bench.until(lambda: bench.manager.status() == [])
        assert await bench.use("a") == "t0 t1 "


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


# Memory. A model of this size is estimated at 1.05 times its weights and a quarter of them.
SIZE = 600 << 20
NEED = int(SIZE * 1.3)


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
                OutOfMemoryError, match=r"b needs about 0.8 GiB, and 0.0 GiB are free .* on a"
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
        monkeypatch.setattr(manager._slots["a"].worker, "memory_bytes", 200 << 20)
        await bench.use("b")
        assert set(bench.states()) == {"b"}


async def test_the_limit_follows_the_device(bench: Bench) -> None:
    bench.model("a")
    async with bench.managed("a", max_memory=None) as manager:
        machine = manager.memory_limit
        assert 0 < machine <= psutil.virtual_memory().total
    async with bench.managed("a", max_memory=12345) as manager:
        assert manager.memory_limit == 12345


async def test_an_idle_model_is_unloaded_and_one_in_use_is_not(bench: Bench) -> None:
    bench.model("a"), bench.model("b")
    async with bench.managed("a", "b", idle_timeout=0.05) as manager, manager.lease("a"):
        await bench.use("b")
        await bench.until(lambda: bench.states() == {"a": ModelState.READY})
        await bench.until(lambda: bench.notes("end") == ["end"])
        assert await bench.use("b") == "t0 t1 "


async def test_an_idle_timeout_of_zero_means_never(bench: Bench) -> None:
    bench.model("a")
    async with bench.managed("a", idle_timeout=0) as manager:
        await bench.use("a")
        (status,) = manager.status()
        assert (status.state, status.idle_seconds_left) == (ModelState.READY, None)


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


async def test_close_ends_whatever_goes_on(bench: Bench) -> None:
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
        assert psutil.Process().children() == []


async def test_close_while_the_spare_starts(bench: Bench) -> None:
    bench.start_file.write_text("silent")
    async with bench.managed(spare_worker=True):
        await bench.until(lambda: bench.notes("start") != [])


async def test_the_spare_worker_gets_the_model_and_another_takes_its_place(bench: Bench) -> None:
    bench.model("a")
    async with bench.managed("a", spare_worker=True):
        await bench.until(lambda: len(psutil.Process().children()) == 1)
        (spare,) = psutil.Process().children()
        await bench.use("a")
        assert f"{spare.pid} load a" in bench.log.read_text()
        await bench.until(lambda: len(bench.notes("start")) == 2)


async def test_a_worker_is_kept_as_the_spare_if_its_model_does_not_fit(bench: Bench) -> None:
    bench.model("a"), bench.model("big", weights_bytes=4 * GIB)
    async with bench.managed("a", "big", spare_worker=True):
        for _ in range(3):
            with pytest.raises(OutOfMemoryError):
                await bench.use("big")
        await bench.use("a")
        assert bench.notes("load") == ["load a"]
    assert len(bench.notes("start")) <= 2


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


async def test_requests_share_one_download(bench: Bench, hub: HubStandin) -> None:
    hold = threading.Event()
    hub.add("mlx-community/Tiny-4bit", write_model(bench.folder / "repo", weights=b"x" * 200_000), hold=hold)
    async with bench.managed() as manager:
        names = ("mlx-community/Tiny-4bit", "mlx-community/tiny-4BIT", "tiny-4bit")
        using = [asyncio.create_task(bench.use(name)) for name in names]
        await asyncio.to_thread(hub.holding.wait, 60)
        assert [status.state for status in manager.status()] == [ModelState.DOWNLOADING]
        using[0].cancel()
        hold.set()
        assert await asyncio.gather(*using[1:]) == ["t0 t1 "] * 2
        assert [status.id for status in manager.status()] == ["mlx-community/Tiny-4bit"]
        async with manager.lease("tiny") as lease:
            assert lease.model_id == "mlx-community/Tiny-4bit"
    weights = [
        request for request in hub.requests if request.startswith("GET") and request.endswith("model.safetensors")
    ]
    assert len(weights) == 1


async def test_a_cached_model_needs_no_hub(bench: Bench, hub: HubStandin) -> None:
    hub.add("mlx-community/Tiny-4bit", write_model(bench.folder / "repo"))
    async with bench.managed():
        await bench.use("mlx-community/Tiny-4bit")
        await bench.manager.close()
    hub.requests.clear()
    async with bench.managed():
        assert await bench.use("tiny") == "t0 t1 "
    assert hub.requests == []


async def test_a_download_that_can_never_fit_is_stopped(bench: Bench, hub: HubStandin) -> None:
    hub.add("mlx-community/Tiny-4bit", write_model(bench.folder / "repo", weights=b"x" * 200_000))
    async with bench.managed(max_memory=1000) as manager:
        with pytest.raises(OutOfMemoryError, match="--max-memory"):
            await bench.use("mlx-community/Tiny-4bit")
        assert manager.status() == []
    assert not list((bench.folder / "cache").rglob("model.safetensors"))


@pytest.mark.parametrize(("fault", "expected"), [({"status": 404, "code": "RepoNotFound"}, ModelNotFoundError)])
async def test_a_failed_download_reaches_all_who_wait(
    bench: Bench, hub: HubStandin, fault: dict[str, Any], expected: type[ServerError]
) -> None:
    hub.add("mlx-community/Tiny-4bit", write_model(bench.folder / "repo"), **fault)
    async with bench.managed():
        errors = await asyncio.gather(*(bench.use("tiny-4bit") for _ in range(2)), return_exceptions=True)
        assert [type(error) for error in errors] == [expected] * 2


async def test_close_during_a_download(bench: Bench, hub: HubStandin) -> None:
    hold = threading.Event()
    hub.add("mlx-community/Tiny-4bit", write_model(bench.folder / "repo", weights=b"x" * 200_000), hold=hold)
    async with bench.managed() as manager:
        using = asyncio.create_task(bench.use("tiny-4bit"))
        await asyncio.to_thread(hub.holding.wait, 60)
        await manager.close()
        with pytest.raises(UnavailableError, match="shutting down"):
            await using
    assert not list((bench.folder / "cache").rglob("*.incomplete"))


async def test_the_real_worker_speaks_the_same_protocol(tmp_path: Path, hub: HubStandin, no_orphans: None) -> None:
    hub.add("mlx-community/Tiny-4bit", make_model(tmp_path / "repo", bits=4, shards=2))
    manager = Manager(Settings(spare_worker=False), Catalog(cache_dir=tmp_path / "cache"))
    request = GenerationRequest(prompt=TextPrompt(text="Hello"), max_tokens=5, sampling=Sampling(temperature=0.0))
    try:
        async with manager.lease("tiny-4bit") as lease:
            assert (lease.model_id, lease.info.model_type) == ("mlx-community/Tiny-4bit", "qwen3")
            first = await read(lease.generate(request))
            assert first and first == await read(lease.generate(request))
            lease.generate(GenerationRequest(prompt=TextPrompt(text="Hello"))).cancel()
            (status,) = manager.status()
            assert (status.state, status.running) == (ModelState.READY, 0)
    finally:
        await manager.close()
