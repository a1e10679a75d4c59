"""The thread that prepares prompts: order, failures, and cancels at each moment."""

from __future__ import annotations

import queue
import random
import threading
from typing import Any

import pytest

from mlx_server_nano.errors import Failure, InvalidRequestError
from mlx_server_nano.protocol import Generate
from mlx_server_nano.types import GenerationRequest, TextPrompt
from mlx_server_nano.worker.preparer import Preparer
from mlx_server_nano.worker.scheduler import Prepared


class Slow:
    """Takes the place of Tokenizing: says what it works on, and waits to be let on."""

    def __init__(self) -> None:
        self.working: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.go = threading.Semaphore(0)
        self.error: Exception | None = None

    def prepare(self, request_id: int, request: GenerationRequest) -> Prepared:
        self.working.put(request_id)
        self.go.acquire()
        if self.error is not None:
            raise self.error
        return Prepared(request_id=request_id, request=request, ids=[1], tail="", continues_text=True)


class Thread:
    def __init__(self) -> None:
        self.slow = Slow()
        self.delivered: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.preparer = Preparer(self.delivered.put)
        self.preparer.start(self.slow)  # type: ignore[arg-type]

    def submit(self, request_id: int) -> None:
        self.preparer.submit(Generate(request_id, GenerationRequest(prompt=TextPrompt(text=""))))

    def next(self) -> Any:
        return self.delivered.get(timeout=60)


@pytest.fixture
def thread() -> Thread:
    return Thread()


def test_requests_are_prepared_in_their_order(thread):
    for request_id in (3, 1, 2):
        thread.submit(request_id)
    thread.slow.go.release(3)
    assert [thread.next().request_id for _ in range(3)] == [3, 1, 2]


def test_a_request_cancelled_while_it_waits_is_not_prepared(thread):
    for request_id in (1, 2, 3):
        thread.submit(request_id)
    assert thread.slow.working.get(timeout=60) == 1
    thread.preparer.cancel(2)
    thread.slow.go.release(3)
    assert [thread.next().request_id for _ in range(2)] == [1, 3]
    assert thread.slow.working.get(timeout=60) == 3


def test_a_request_cancelled_while_it_is_prepared_is_not_delivered(thread):
    thread.submit(1)
    thread.submit(2)
    assert thread.slow.working.get(timeout=60) == 1
    thread.preparer.cancel(1)
    thread.slow.go.release(2)
    assert thread.next().request_id == 2


def test_cancelling_what_has_been_delivered_is_left_to_the_engine(thread):
    thread.slow.go.release(2)
    thread.submit(1)
    assert thread.next().request_id == 1
    thread.preparer.cancel(1)
    thread.submit(1)
    assert thread.next().request_id == 1, "nothing is remembered of the id"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InvalidRequestError("no", param="messages"), Failure("InvalidRequestError", "no", "messages")),
        (ValueError("oops"), Failure("GenerationError", "The prompt could not be prepared: oops", None)),
    ],
)
def test_a_failure_is_delivered_and_the_next_request_prepared(thread, error, expected):
    thread.slow.go.release(2)
    thread.slow.error = error
    thread.submit(1)
    assert thread.next() == (1, expected)
    thread.slow.error = None
    thread.submit(2)
    assert thread.next().request_id == 2


@pytest.mark.parametrize("seed", range(3))
def test_cancelled_at_random_moments(thread, seed):
    """Each request is delivered, or it was cancelled; whatever comes after a cancel was not prepared for nothing."""
    rng = random.Random(seed)
    thread.slow.go.release(1000)
    cancelled = set()
    for request_id in range(300):
        thread.submit(request_id)
        if rng.random() < 0.5:
            victim = rng.randint(0, request_id)
            thread.preparer.cancel(victim)
            cancelled.add(victim)
    thread.submit(999)
    delivered = []
    while (result := thread.next()).request_id != 999:
        delivered.append(result.request_id)
    assert delivered == sorted(delivered)
    assert set(range(300)) - cancelled <= set(delivered)


def test_requests_that_come_before_the_model_wait():
    slow = Slow()
    slow.go.release(2)
    delivered: queue.SimpleQueue[Any] = queue.SimpleQueue()
    preparer = Preparer(delivered.put)
    for request_id in (1, 2):
        preparer.submit(Generate(request_id, GenerationRequest(prompt=TextPrompt(text=""))))
    preparer.cancel(1)
    preparer.start(slow)  # type: ignore[arg-type]
    assert delivered.get(timeout=60).request_id == 2
