from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from mlx_server_nano.chat.model import ChatModel
from mlx_server_nano.config import worker_environment
from mlx_server_nano.config.models import RequestDefaults
from mlx_server_nano.errors import (
    GenerationError,
    InvalidRequestError,
    QueueFullError,
    ServerError,
    UnsupportedModelError,
    WorkerDiedError,
)
from mlx_server_nano.models.generation import Generation
from mlx_server_nano.models.lease import Lease, Loaded
from mlx_server_nano.models.worker import Worker
from mlx_server_nano.protocol import Delta, LoadOptions, Started
from mlx_server_nano.types import ChatPrompt, FinishReason, GenerationRequest, TextPrompt
from tests.models import fake_worker
from tests.models.conftest import Children

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("child_path")]

FAKE = (sys.executable, "-P", str(Path(fake_worker.__file__)))
OPTIONS = LoadOptions(log_name="fake")
PATIENCE = 60.0  # seconds for a process to end by itself; one that is killed tells nothing of how it would have ended


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


def ask(text: str, n: int = 1) -> GenerationRequest:
    return GenerationRequest(prompt=TextPrompt(text=text), n=n)


@asynccontextmanager
async def started(*arguments: str) -> AsyncIterator[Worker]:
    worker = Worker(PATIENCE)
    await worker.start([*FAKE, *arguments], worker_environment(), timeout=60)
    try:
        yield worker
    finally:
        await worker.stop()
        assert not psutil.pid_exists(worker.pid)


@asynccontextmanager
async def loaded(folder: Path, *arguments: str, script: str = "ok") -> AsyncIterator[Worker]:
    (folder / "script").write_text(script)
    async with started(*arguments) as worker:
        await worker.load(folder, OPTIONS, lambda _: None)
        yield worker


async def read(generation: Generation) -> str:
    text = ""
    while not generation.finished:
        for event in await generation.next():
            text += event.text if isinstance(event, Delta) else ""
    return text


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.01)


async def fails(expected: type[ServerError], waiting: Awaitable[object], says: str) -> None:
    with pytest.raises(expected, match=says):
        await waiting


async def test_loads_with_progress(tmp_path: Path) -> None:
    progress: list[float] = []
    async with started("--memory", "123") as worker:
        info = await worker.load(tmp_path, OPTIONS, progress.append)
    assert info == fake_worker.INFO
    assert progress == [0.5]


async def test_start_tells_the_device() -> None:
    worker = Worker()
    device = await worker.start([*FAKE, "--memory", "123"], worker_environment(), timeout=60)
    await worker.stop()
    assert device.memory_bytes == 123


async def test_a_request_runs_to_its_end(tmp_path: Path) -> None:
    async with loaded(tmp_path) as worker:
        generation = worker.generate(ask("count 3"))
        assert (worker.running, worker.open_choices, generation.finished) == (1, 1, False)
        assert worker.waiting == 1
        first = (await generation.next())[0]
        assert worker.waiting == 0
        assert first == Started(1, 2, 0, "tail")
        await read(generation)
        assert (worker.running, worker.open_choices, worker.memory_bytes) == (0, 0, 1 << 20)
        assert await generation.next() == []


async def test_requests_share_a_worker_and_choices_end_one_by_one(tmp_path: Path) -> None:
    async with loaded(tmp_path) as worker:
        texts = await asyncio.gather(*(read(worker.generate(ask(f"count {count}"))) for count in (1, 50, 7)))
        assert [text.split()[-1] for text in texts] == ["t0", "t49", "t6"]
        several = worker.generate(ask("count 2", n=3))
        assert worker.open_choices == 3
        events = []
        while not several.finished:
            events += await several.next()
        last = [event.choice for event in events if isinstance(event, Delta) and event.finish is FinishReason.STOP]
        assert last == [0, 1, 2]


async def test_requests_that_belong_together_end_together(tmp_path: Path) -> None:
    async with loaded(tmp_path) as worker:
        both = worker.generate(ask("count 3"), ask("count 2", n=2))
        assert (worker.running, worker.open_choices) == (1, 3)
        assert len((await read(both)).split()) == 7
        assert worker.running == 0
        failing = worker.generate(ask("hold"), ask("fail"), ask("hold"))
        await fails(GenerationError, read(failing), "made to fail")
        assert (worker.running, worker.open_choices, failing.finished) == (0, 0, False)
        left = worker.generate(ask("hold"), ask("hold"))
        left.cancel()
        assert (worker.running, left.finished) == (0, True)


async def test_requests_that_belong_together_count_together(tmp_path: Path) -> None:
    async with loaded(tmp_path) as worker:
        lease = Lease("m", Loaded(worker, fake_worker.INFO, ChatModel(fake_worker.INFO)), 4, RequestDefaults())
        lease.generate(*[ask("hold")] * 5).cancel()  # whatever is asked of a model without work is taken
        lease.generate(ask("hold"), ask("hold"))
        with pytest.raises(QueueFullError, match="2 unfinished choices"):
            lease.generate(ask("hold"), ask("hold", n=2))
        lease.generate(ask("hold"), ask("hold"))
        assert worker.open_choices == 4
        lease.end()
        assert worker.open_choices == 0


async def test_next_gives_all_that_is_pending_at_once(tmp_path: Path) -> None:
    async with loaded(tmp_path) as worker:
        slow = worker.generate(ask("count 100"))
        await read(worker.generate(ask("count 200")))
        events = await slow.next()
        assert len(events) == 101
        assert slow.finished


async def test_next_times_out_with_nothing(tmp_path: Path) -> None:
    async with loaded(tmp_path) as worker:
        generation = worker.generate(ask("hold"))
        await generation.next()
        assert await generation.next(timeout=0.01) == []
        assert not generation.finished
        generation.cancel()


async def test_a_failed_request_ends_alone(tmp_path: Path) -> None:
    async with loaded(tmp_path) as worker:
        failing, other = worker.generate(ask("fail")), worker.generate(ask("hold"))
        await fails(GenerationError, read(failing), "made to fail")
        assert (await other.next())[0] == Started(2, 2, 0, "tail")
        assert worker.running == 1
        other.cancel()


async def test_a_request_that_no_frame_can_hold(tmp_path: Path) -> None:
    async with loaded(tmp_path) as worker:
        huge = GenerationRequest(prompt=ChatPrompt(messages=({"role": "user", "content": 10**30},)))
        with pytest.raises(InvalidRequestError, match="out of range"):
            worker.generate(huge)
        assert worker.open_choices == 0
        assert await read(worker.generate(ask("count 2"))) == "t0 t1 "


async def test_cancel_reaches_the_worker_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with loaded(tmp_path, "--log", str(log)) as worker:
        generation = worker.generate(ask("hold"))
        await generation.next()
        waiting = asyncio.create_task(generation.next())
        await asyncio.sleep(0)
        generation.cancel()
        generation.cancel()
        assert await waiting == []
        assert generation.finished
        assert worker.running == 0
        finished = worker.generate(ask("count 1"))
        await read(finished)
        finished.cancel()
    notes = [line.split(" ", 1)[1] for line in log.read_text().splitlines()]
    assert notes[2:] == ["generate 1", "cancel 1", "generate 2", "end"]


async def test_a_late_event_of_a_cancelled_request_is_dropped(tmp_path: Path) -> None:
    async with loaded(tmp_path) as worker:
        worker.generate(ask("count 100000")).cancel()
        assert await read(worker.generate(ask("count 2"))) == "t0 t1 "


@pytest.mark.parametrize(("prompt", "says"), [("crash", "SIGKILL"), ("exit", "exit code 3")], ids=["killed", "exited"])
async def test_death_ends_every_request_after_what_came_before(tmp_path: Path, prompt: str, says: str) -> None:
    async with loaded(tmp_path) as worker:
        exits: list[bool] = []
        worker.on_exit = lambda: exits.append(worker.alive)
        other = worker.generate(ask("hold"))
        first = (await other.next())[0]
        assert isinstance(first, Started)
        dying = worker.generate(ask(prompt))
        await fails(WorkerDiedError, read(dying), says)
        await fails(WorkerDiedError, read(other), says)
        assert exits == [False]
        with pytest.raises(WorkerDiedError, match=says):
            worker.generate(ask("count 1"))
        other.cancel()


async def test_a_killed_worker_is_noticed_while_nobody_asks(tmp_path: Path) -> None:
    async with loaded(tmp_path) as worker:
        os.kill(worker.pid, signal.SIGKILL)
        await until(lambda: not worker.alive)
        assert not psutil.pid_exists(worker.pid)


@pytest.mark.parametrize(
    ("script", "expected", "says"),
    [("fail", UnsupportedModelError, "made to fail"), ("crash", WorkerDiedError, "SIGKILL")],
)
async def test_a_load_that_fails(tmp_path: Path, script: str, expected: type[ServerError], says: str) -> None:
    (tmp_path / "script").write_text(script)
    async with started() as worker:
        await fails(expected, worker.load(tmp_path, OPTIONS, lambda _: None), says)


@pytest.mark.parametrize(("start", "code"), [("die", 7), ("garbage", 0)])
async def test_a_worker_that_ends_before_it_is_ready(start: str, code: int, children: Children) -> None:
    starting = Worker(PATIENCE).start([*FAKE, "--start", start], worker_environment(), timeout=60)
    await fails(WorkerDiedError, starting, f"exit code {code}")
    assert children() == []


async def test_a_worker_that_says_nothing_is_given_up() -> None:
    worker = Worker()
    with pytest.raises(TimeoutError):
        await worker.start([*FAKE, "--start", "silent"], worker_environment(), timeout=0.5)
    assert not psutil.pid_exists(worker.pid)


async def test_a_start_that_is_called_off_as_it_succeeds() -> None:
    worker = Worker()
    starting = asyncio.create_task(worker.start(FAKE, worker_environment(), timeout=60))
    worker._reply.add_done_callback(lambda _: starting.cancel())
    try:
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert not psutil.pid_exists(worker.pid)
    finally:
        await worker.stop()


async def test_a_missing_program_is_an_oserror() -> None:
    with pytest.raises(FileNotFoundError):
        await Worker().start(["/nonexistent/python"], worker_environment())


async def test_stop_kills_what_ignores_the_end_of_the_socket(tmp_path: Path) -> None:
    (tmp_path / "deaf").touch()
    worker = Worker(stop_grace=0.1)
    await worker.start(FAKE, worker_environment(), timeout=60)
    await worker.load(tmp_path, OPTIONS, lambda _: None)
    generation = worker.generate(ask("hold"))
    await worker.stop()
    assert not psutil.pid_exists(worker.pid)
    await fails(WorkerDiedError, read(generation), "was stopped")
    await worker.stop()
