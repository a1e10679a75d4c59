"""Reading or computing: by what was measured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_server_nano.worker.payoff import Payoff


def measured(*, speed: float = 1000, rate: float = 1e6) -> Payoff:
    """speed: tokens a second; rate: bytes a second."""
    payoff = Payoff()
    payoff.computed(0, 2000, 2000 / speed)
    payoff.read(10_000_000, 10_000_000 / rate)
    return payoff


def test_with_either_speed_unknown_files_are_read():
    reads, computes = Payoff(), Payoff()
    reads.read(1, 1e9)
    computes.computed(0, 2000, 1e-9)
    computes.computed(2000, 2255, 1e9)
    assert all(payoff.pays(1 << 30, 0, 300) for payoff in (Payoff(), reads, computes))


@given(st.integers(1, 1 << 40), st.integers(0, 200_000), st.integers(1, 200_000), st.floats(1, 1e6), st.floats(1, 1e12))
def test_the_faster_one_is_chosen(nbytes, start, count, speed, rate):
    reading, computing = nbytes / rate, count / speed
    if abs(reading - computing) > 1e-6 * computing:
        assert measured(speed=speed, rate=rate).pays(nbytes, start, start + count) == (reading < computing)


def test_long_prompts_are_computed_more_slowly():
    payoff = measured(speed=1000)
    assert not payoff.pays(10_000_000, 0, 8000)
    payoff.computed(8000, 10_000, 20)
    assert not payoff.pays(10_000_000, 0, 2000)
    assert payoff.pays(10_000_000, 8000, 10_000)
    # Lengths between and beyond go by the nearest.
    assert payoff.pays(10_000_000, 100_000, 102_000)


@pytest.mark.parametrize(("start", "stop", "seconds"), [(0, 2000, 60), (1500, 1600, 0.001), (1000, 1300, 1)])
def test_a_disturbed_or_short_portion_does_not_count(start, stop, seconds):
    payoff = measured(speed=1000)
    payoff.computed(start, stop, seconds)
    assert payoff.pays(1_900_000, 0, 2000)
    assert not payoff.pays(2_100_000, 0, 2000)


def test_long_portions_replace_what_short_ones_said():
    payoff = Payoff()
    payoff.computed(6000, 6300, 3)
    payoff.read(1_000_000, 1)
    assert payoff.pays(2_000_000, 6000, 7000)
    payoff.computed(0, 2000, 2)
    assert not payoff.pays(2_000_000, 6000, 7000)


def test_what_changes_is_noticed():
    payoff = measured(speed=1000)
    for _ in range(20):
        payoff.read(1_000_000, 0.01)
    assert payoff.pays(50_000_000, 0, 1000)
    for _ in range(300):
        payoff.computed(0, 2000, 20)
    assert payoff.pays(500_000_000, 0, 1000)


def test_what_was_measured_is_known_to_the_next_process(tmp_path):
    measured(speed=1000).save(tmp_path / "x")
    payoff = Payoff.load(tmp_path / "x")
    assert payoff == measured(speed=1000) != Payoff()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize(
    "damaged", [b"", b"{", b"[]", b'{"speeds": {"3": 0}}', b'{"seconds": -1}', b'{"speeds": {"3": 1e999}}']
)
def test_with_a_damaged_file_nothing_is_known(tmp_path, damaged):
    (tmp_path / "x").write_bytes(damaged)
    assert Payoff.load(tmp_path / "x") == Payoff() == Payoff.load(tmp_path / "missing")


def test_reading_that_did_not_pay_is_tried_again_now_and_then():
    payoff = measured(speed=1000, rate=1e6)
    tries = [payoff.pays(4_000_000, 0, 1000) for _ in range(200)]
    assert tries.index(True) > 100
