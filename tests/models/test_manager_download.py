from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from mlx_server_nano.config import Settings
from mlx_server_nano.errors import ModelNotFoundError, OutOfMemoryError, ServerError, UnavailableError
from mlx_server_nano.models.catalog import Catalog
from mlx_server_nano.models.manager import Manager
from mlx_server_nano.models.slot import ModelState
from mlx_server_nano.types import GenerationRequest, Sampling, TextPrompt
from tests.hub_standin import HubStandin
from tests.models.bench import Bench, read
from tests.models.folders import write_model
from tests.tiny_models import make_model

pytestmark = pytest.mark.anyio


def held(bench: Bench, hub: HubStandin) -> threading.Event:
    """A repository whose weights stop half-way until this is set."""
    hold = threading.Event()
    hub.add("mlx-community/Tiny-4bit", write_model(bench.folder / "repo", weights=b"x" * 200_000), hold=hold)
    return hold


async def half_way(bench: Bench, hub: HubStandin) -> asyncio.Task[str]:
    """A request for a model of which half has come."""
    held(bench, hub)
    using = asyncio.create_task(bench.use("mlx-community/Tiny-4bit"))
    await asyncio.to_thread(hub.holding.wait, 60)
    return using


async def test_requests_share_one_download(bench: Bench, hub: HubStandin) -> None:
    hold = held(bench, hub)
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
    held(bench, hub)  # or all of it may have come before the manager has heard how much it is
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
    async with bench.managed() as manager:
        using = await half_way(bench, hub)
        await manager.close()
        with pytest.raises(UnavailableError, match="shutting down"):
            await using
    assert not list((bench.folder / "cache").rglob("*.incomplete"))


async def test_a_download_that_is_called_off_is_waited_for_by_all_who_do_so(bench: Bench, hub: HubStandin) -> None:
    async with bench.managed() as manager:
        using = await half_way(bench, hub)
        unloading = asyncio.create_task(manager.unload("mlx-community/Tiny-4bit", force=True))
        for _ in range(5):
            await asyncio.sleep(0)  # its process has been told to end, and has not yet
        await manager.close()
        assert not list((bench.folder / "cache").rglob("*.incomplete"))
        assert await unloading == "mlx-community/Tiny-4bit"
        with pytest.raises(UnavailableError):
            await using


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
