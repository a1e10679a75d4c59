"""What passes are taken to cost, from a clock that is set by hand."""

from __future__ import annotations

from mlx_server_nano.worker.costs import Costs, Shape

PLAIN, WIDE = Shape(1, 1), Shape(1, 9)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(costs: Costs, clock: Clock, seconds: float, shape: Shape | None, *, ahead: bool, times: int = 1) -> None:
    for _ in range(times):
        clock.now += seconds
        costs.mark(shape, ahead=ahead)


def test_a_ratio_of_what_was_measured():
    clock = Clock()
    costs = Costs(clock)
    assumed = costs.ratio(WIDE)
    assert 1 < assumed < 2
    run(costs, clock, 1, PLAIN, ahead=True, times=5)
    run(costs, clock, 3, WIDE, ahead=False, times=3)
    assert costs.ratio(WIDE) == 3
    assert costs.ratio(Shape(2, 9)) != 3, "other rows"


def test_the_first_pass_of_a_shape_does_not_count():
    clock = Clock()
    costs = Costs(clock)
    run(costs, clock, 1, PLAIN, ahead=True, times=5)
    run(costs, clock, 0.5, WIDE, ahead=False)
    run(costs, clock, 50, WIDE, ahead=False)
    assert costs.ratio(WIDE) < 2, "nor is one enough"
    run(costs, clock, 2, WIDE, ahead=False)
    assert costs.ratio(WIDE) == 2


def test_what_something_else_disturbed_does_not_count():
    clock = Clock()
    costs = Costs(clock)
    run(costs, clock, 1, PLAIN, ahead=True, times=5)
    run(costs, clock, 2, WIDE, ahead=False, times=3)
    run(costs, clock, 0.1, None, ahead=False)
    run(costs, clock, 0.1, WIDE, ahead=False)  # since when is not known
    assert costs.ratio(WIDE) == 2
    run(costs, clock, 1.5, WIDE, ahead=False)
    assert costs.ratio(WIDE) == 1.5


def test_plain_steps_count_only_where_each_is_launched_ahead():
    clock = Clock()
    costs = Costs(clock)
    run(costs, clock, 1, PLAIN, ahead=True, times=5)
    run(costs, clock, 2, WIDE, ahead=False, times=3)
    run(costs, clock, 0.1, PLAIN, ahead=False, times=2)
    run(costs, clock, 0.1, PLAIN, ahead=True)
    assert costs.ratio(WIDE) == 2


def test_the_least_of_the_latest_counts():
    clock = Clock()
    costs = Costs(clock)
    run(costs, clock, 1, PLAIN, ahead=True, times=5)
    for seconds in (9, 2, 5, 9):
        run(costs, clock, seconds, WIDE, ahead=False)
    assert costs.ratio(WIDE) == 2
    run(costs, clock, 4, WIDE, ahead=False, times=8)
    assert costs.ratio(WIDE) == 4


def test_one_shape_tells_of_the_others():
    clock = Clock()
    costs = Costs(clock)
    run(costs, clock, 1, PLAIN, ahead=True, times=5)
    run(costs, clock, 9, WIDE, ahead=False, times=3)
    assert 16 < costs.ratio(Shape(1, 17)) < 18
    assert 16 < costs.ratio(Shape(2, 9)) < 18
    assert 4 < costs.ratio(Shape(1, 5)) < 6


def test_what_did_not_pay_is_tried_again_some_time():
    clock = Clock()
    costs = Costs(clock)
    run(costs, clock, 1, PLAIN, ahead=True, times=5)
    run(costs, clock, 40, WIDE, ahead=False, times=3)
    for _ in range(100):
        costs.pass_over(1)
    assert costs.ratio(WIDE) == 40
    for _ in range(900):
        costs.pass_over(1)
    assert costs.ratio(WIDE) < 2
