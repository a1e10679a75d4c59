"""Which prompts are worked on next: the budget and the row limit hold, the oldest always moves on, all come to run."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from mlx_server_nano.types import GenerationRequest, TokenPrompt
from mlx_server_nano.worker.scheduler import Prefill, Prepared, Scheduler


@dataclass
class Running:
    rows: int
    steps: int


def prepared(request_id: int, length: int, n: int = 1) -> Prepared:
    request = GenerationRequest(prompt=TokenPrompt(ids=()), n=n)
    return Prepared(request_id=request_id, request=request, ids=[7] * length, tail="", continues_text=False)


def ids_of(prefills: list[Prefill]) -> list[int]:
    return [prefill.prepared.request_id for prefill in prefills]


@given(
    requests=st.lists(
        st.tuples(st.integers(1, 400), st.integers(1, 6), st.integers(1, 5), st.integers(0, 4)), min_size=1, max_size=20
    ),
    max_rows=st.integers(1, 8),
    budget=st.integers(16, 200),
)
def test_every_request_comes_to_run_within_the_limits(requests, max_rows, budget):
    """requests: prompt length, n, decode steps, turns until the next one arrives."""
    scheduler = Scheduler(max_rows)
    arrivals = [(i, length, n, steps, pause) for i, (length, n, steps, pause) in enumerate(requests)]
    steps_of = {i: steps for i, _, _, steps, _ in arrivals}
    admitted: list[int] = []
    decoding: dict[int, Running] = {}
    finished: set[int] = set()
    pause = 0
    for _ in range(5_000):
        while arrivals and pause == 0:
            i, length, n, _, pause = arrivals.pop(0)
            scheduler.add(prepared(i, length, n))
        pause = max(0, pause - 1)

        rows = sum(running.rows for running in decoding.values())
        admitted += ids_of(scheduler.admit(rows))
        rows += sum(prefill.prepared.request.n for prefill in scheduler.prefills)
        assert rows <= max_rows or len(scheduler.prefills) + len(decoding) == 1

        unfinished = [prefill for prefill in scheduler.prefills if prefill.remaining]
        plan = scheduler.plan(budget)
        assert len({id(prefill) for prefill, _ in plan}) == len(plan)
        assert sum(count for _, count in plan) <= budget
        if sum(prefill.remaining for prefill in unfinished) <= budget:
            assert all(count == prefill.remaining for prefill, count in plan)
        if unfinished:
            assert next(prefill for prefill, count in plan if count) is unfinished[0]
        for prefill, count in plan:
            assert (0 < count <= prefill.remaining) if prefill.remaining else count == 0
            assert count == prefill.remaining or count >= budget // 4
            prefill.done += count
            if prefill.remaining == 0:
                scheduler.remove(prefill)
                i = prefill.prepared.request_id
                decoding[i] = Running(prefill.prepared.request.n, steps_of[i])

        for i, running in list(decoding.items()):
            running.steps -= 1
            if running.steps == 0:
                finished.add(i)
                del decoding[i]
        if not arrivals and scheduler.idle and not decoding:
            break
    assert finished == set(range(len(requests)))
    assert admitted == sorted(admitted), "requests are admitted in the order they came"


def test_a_short_prompt_does_not_wait_behind_a_long_one():
    scheduler = Scheduler(8)
    scheduler.add(prepared(1, 10_001))
    scheduler.add(prepared(2, 51))
    scheduler.add(prepared(3, 31))
    scheduler.admit(0)
    plan = {prefill.prepared.request_id: count for prefill, count in scheduler.plan(128)}
    assert plan == {1: 64, 3: 30, 2: 34}


def test_no_pass_is_spent_on_a_small_portion():
    scheduler = Scheduler(8)
    for i in (1, 2, 3):
        scheduler.add(prepared(i, 231))
    scheduler.admit(0)
    assert [count for _, count in scheduler.plan(512)] == [230, 230]


def test_a_lone_prompt_gets_the_whole_budget():
    scheduler = Scheduler(8)
    scheduler.add(prepared(1, 10_001))
    scheduler.admit(0)
    assert [count for _, count in scheduler.plan(128)] == [128]


def test_a_prompt_of_one_token_decodes_at_once():
    scheduler = Scheduler(8)
    scheduler.add(prepared(1, 10_001))
    scheduler.add(prepared(2, 1))
    scheduler.admit(0)
    assert [(prefill.prepared.request_id, count) for prefill, count in scheduler.plan(64)] == [(2, 0), (1, 64)]


def test_more_choices_than_rows_run_when_all_else_is_done():
    scheduler = Scheduler(4)
    scheduler.add(prepared(1, 5, n=6))
    scheduler.add(prepared(2, 5))
    assert scheduler.admit(1) == []
    assert ids_of(scheduler.admit(0)) == [1]
    assert scheduler.admit(0) == []


def test_cancel_forgets_a_request_wherever_it_is():
    scheduler = Scheduler(1)
    for i in (1, 2, 3):
        scheduler.add(prepared(i, 100))
    (first,) = scheduler.admit(0)
    assert scheduler.cancel(2) == []
    assert scheduler.cancel(1) == [first]
    assert scheduler.cancel(1) == []
    assert ids_of(scheduler.admit(0)) == [3]
    scheduler.cancel(3)
    assert scheduler.idle
