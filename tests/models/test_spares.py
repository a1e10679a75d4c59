from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mlx_server_nano.config import worker_environment
from mlx_server_nano.errors import UnavailableError
from mlx_server_nano.models.spares import Spares
from tests.models import fake_worker
from tests.models.conftest import Children

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("child_path", "soon", "no_orphans")]


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_server_nano.models.spares.FIRST_DELAY", 0.02)


@pytest.fixture
def behaviour(tmp_path: Path) -> Path:
    """A file that says how workers start."""
    (tmp_path / "start").write_text("ready")
    return tmp_path / "start"


@asynccontextmanager
async def spares(behaviour: Path, *, keep: bool) -> AsyncIterator[Spares]:
    command = [sys.executable, "-P", fake_worker.__file__, "--start-file", str(behaviour), "--memory", "77"]
    pool = Spares(command, worker_environment(), keep=keep)
    pool.refill()
    try:
        yield pool
    finally:
        await pool.close()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.01)


@pytest.fixture
def pids(children: Children) -> Callable[[], set[int]]:
    return lambda: {child.pid for child in children()}


async def test_one_waits_and_is_handed_out(behaviour: Path, pids: Callable[[], set[int]]) -> None:
    async with spares(behaviour, keep=True) as pool:
        await until(lambda: pool.device is not None)
        waiting = pids()
        worker = await pool.take()
        assert {worker.pid} == waiting
        assert pool.device is not None and pool.device.memory_bytes == 77
        await worker.stop()


async def test_takers_get_one_each(behaviour: Path) -> None:
    async with spares(behaviour, keep=True) as pool:
        workers = await asyncio.gather(*(pool.take() for _ in range(3)))
        assert len({worker.pid for worker in workers}) == 3
        await asyncio.gather(*(worker.stop() for worker in workers))


async def test_none_waits_unless_wanted(behaviour: Path, pids: Callable[[], set[int]]) -> None:
    async with spares(behaviour, keep=False) as pool:
        worker = await pool.take()
        assert pids() == {worker.pid}
        pool.refill()
        await pool.give_back(worker)
        assert pids() == set()


async def test_a_dead_one_is_replaced_and_that_is_no_problem(behaviour: Path, pids: Callable[[], set[int]]) -> None:
    async with spares(behaviour, keep=True) as pool:
        await until(lambda: pool.device is not None)
        (first,) = pids()
        os.kill(first, signal.SIGKILL)
        await until(lambda: pids() not in (set(), {first}))
        assert pool.problem is None
        worker = await pool.take()
        assert worker.pid != first
        await worker.stop()


async def test_a_problem_is_told_until_it_is_over(behaviour: Path) -> None:
    behaviour.write_text("die")
    async with spares(behaviour, keep=True) as pool:
        await until(lambda: pool.problem is not None)
        with pytest.raises(UnavailableError, match="exit code 7"):
            await pool.take()
        behaviour.write_text("ready")
        await until(lambda: pool.problem is None)
        await (await pool.take()).stop()


async def test_a_missing_program_is_a_problem(behaviour: Path) -> None:
    pool = Spares(["/nonexistent/python"], worker_environment(), keep=False)
    with pytest.raises(UnavailableError, match="No such file"):
        await pool.take()
    assert pool.problem is not None
    await pool.close()


async def test_tries_come_at_growing_intervals(behaviour: Path, caplog: pytest.LogCaptureFixture) -> None:
    behaviour.write_text("die")
    async with spares(behaviour, keep=True):
        await until(lambda: len(caplog.records) >= 3)
    assert [record.message.rpartition(". ")[2] for record in caplog.records[:3]] == [
        "Next try in 0.02 s",
        "Next try in 0.04 s",
        "Next try in 0.08 s",
    ]


async def test_close_while_one_starts(behaviour: Path, pids: Callable[[], set[int]]) -> None:
    behaviour.write_text("silent")
    async with spares(behaviour, keep=True):
        await until(lambda: pids() != set())
