"""How often long rows take a step beside short ones. How long steps take is made up here."""

from __future__ import annotations

import random
from typing import Any

import pytest

from mlx_server_nano.worker.pace import Pace
from tests.worker.conftest import Tiny
from tests.worker.harness import Driver
from tests.worker.test_engine import check, prompt


class FakeGroup:
    def __init__(self, reach: int, seconds: float, rows: int = 1) -> None:
        self.reach = reach
        self.seconds = seconds
        self.rows = rows

    def __len__(self) -> int:
        return self.rows


class Machine:
    """Takes as long for a step as its groups say, and `weights` for any."""

    def __init__(self, weights: float, *groups: FakeGroup, host: bool = False) -> None:
        self.weights = weights
        self.host = host
        self.groups: list[Any] = list(groups)
        self.now = 0.0
        self.pace = Pace(lambda: self.now)
        self.steps: dict[Any, int] = {}
        self._running: list[Any] = []

    def step(self, *, disturbed: bool = False) -> list[Any]:
        """As in the engine, the next step is launched before the last one is read. `host`: what takes the time is launching."""
        due = self.pace.due(list(self.groups))
        self.now += self._duration(due if self.host else self._running) + (1 if disturbed else 0)
        for group in self._running:
            self.steps[group] = self.steps.get(group, 0) + 1
        self.pace.mark(self._running, ahead=True)
        self._running = due
        return due

    def speeds(self, count: int = 1000) -> list[float]:
        """Each group's steps a second, divided by those it makes alone."""
        before, started = dict(self.steps), self.now
        for _ in range(count):
            self.step()
        seconds = self.now - started
        return [
            (self.steps.get(group, 0) - before.get(group, 0)) / seconds * self._duration([group])
            for group in self.groups
        ]

    def _duration(self, groups: list[Any]) -> float:
        return self.weights + sum(group.seconds for group in groups)


@pytest.mark.parametrize("host", [False, True])
def test_short_rows_keep_most_of_their_speed_and_long_ones_go_on(host: bool):
    machine = Machine(0.001, FakeGroup(64, 0), FakeGroup(32_000, 0.012), host=host)
    machine.speeds(50)
    short, long = machine.speeds()
    assert short == pytest.approx(0.75, abs=0.02)
    assert long == pytest.approx(0.25, abs=0.03)


def test_a_long_row_is_never_left_out_for_long():
    machine = Machine(0.001, FakeGroup(64, 0), FakeGroup(1_000_000, 10))
    machine.speeds(50)
    gaps = [machine.groups[1] in machine.step() for _ in range(640)]
    assert gaps.count(True) == 10


def test_nobody_sits_out_where_the_weights_are_most_of_the_work():
    machine = Machine(0.016, FakeGroup(64, 0), FakeGroup(32_000, 0.0047))
    machine.speeds(50)
    short, long = machine.speeds()
    assert short == pytest.approx(0.77, abs=0.02)
    assert long > 0.98


def test_rows_of_like_length_and_groups_alone_step_together():
    for groups in ([FakeGroup(2000, 0.01), FakeGroup(7000, 0.03)], [FakeGroup(32_000, 0.1)]):
        machine = Machine(0.001, *groups)
        assert all(machine.step() == groups for _ in range(100))


def test_one_long_row_among_several_groups():
    groups = [FakeGroup(64, 0), FakeGroup(200, 0), FakeGroup(32_000, 0.004), FakeGroup(90_000, 0.008)]
    machine = Machine(0.001, *groups)
    machine.speeds(50)
    assert machine.speeds()[:2] == pytest.approx([0.75, 0.75], abs=0.02)
    assert machine.steps[groups[2]] == machine.steps[groups[3]] > 5


def test_what_was_measured_is_forgotten_when_the_company_changes():
    machine = Machine(0.001, FakeGroup(64, 0), FakeGroup(32_000, 0.012))
    machine.speeds(50)
    machine.groups[0] = FakeGroup(64, 0)
    assert machine.step() == machine.groups
    machine.groups[1].seconds = 0
    machine.speeds(50)
    assert machine.speeds()[1] > 0.95


def test_disturbances_and_steps_that_were_not_launched_ahead_tell_nothing():
    machine = Machine(0.001, FakeGroup(64, 0), FakeGroup(32_000, 0.0001))
    for i in range(200):
        machine.step(disturbed=i % 3 == 0)
    assert machine.speeds()[1] > 0.95
    pace = Pace(lambda: machine.now)
    for _ in range(20):
        machine.now += 1
        assert pace.due(machine.groups) == machine.groups
        pace.mark(machine.groups, ahead=False)


def test_answers_stay_the_same_where_a_long_row_sits_out(tiny: Tiny, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Pace, "_every", lambda self: 5)
    loaded = tiny("qwen3")
    driver = Driver(loaded, pace=Pace())
    long, short = prompt(random.Random(1), 1500), prompt(random.Random(2), 20)
    first = driver.tokens(long, max_tokens=30)
    driver.turn(2)
    second = driver.tokens(short, max_tokens=30)
    while driver.answers().get((second, 0)) is None or driver.answers()[second, 0].finish is None:
        driver.turn()
    assert driver.answers()[first, 0].tokens < 15
    driver.run()
    check(loaded, driver.answers()[first, 0], long, 30)
    check(loaded, driver.answers()[second, 0], short, 30)
