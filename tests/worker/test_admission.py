"""What there is memory for, in numbers."""

from __future__ import annotations

import pytest

from mlx_server_nano.errors import ContextLengthError
from mlx_server_nano.worker.admission import Admission
from mlx_server_nano.worker.row_cost import RowCost


class Memory:
    def __init__(self, held: int) -> None:
        self.held = held

    def __call__(self) -> int:
        return self.held


def limited(cost: RowCost, limit: int, context_length: int, held: Memory) -> Admission:
    admission = Admission(cost, context_length, held)
    admission.limit = limit
    return admission


WEIGHTS = 1600  # a sixteenth of them is set aside for forward passes


def test_without_a_limit_everything_fits():
    admission = Admission(RowCost(10), 4096, Memory(WEIGHTS))
    admission.check(10**9)
    assert admission.short(10**12) <= 0
    assert admission.context_length == 4096
    assert not admission.is_near(100)


def test_what_is_short():
    memory = Memory(WEIGHTS)
    admission = limited(RowCost(10), 10_000, 4096, memory)
    memory.held += 400
    assert admission.short(7900) == 0
    assert admission.short(7901) == 1
    admission.note_workspace(50)
    assert admission.short(7901) == 1, "less than what is set aside anyway"
    admission.note_workspace(350)
    assert admission.short(7901) == 251


def test_a_prompt_that_never_fits_is_refused_with_the_numbers():
    gib = 1 << 30
    admission = limited(RowCost(1 << 20), 20 * gib, 100_000, Memory(16 * gib))
    longest = admission.context_length
    assert longest == 3 * 1024 - 256, "a gibibyte of four is set aside, and a step of the cache"
    admission.check(longest - 1)
    with pytest.raises(ContextLengthError) as caught:
        admission.check(longest)
    for number in (str(longest), "2.75 GiB", "16.00 GiB", "20.00 GiB"):
        assert number in caught.value.message
    assert caught.value.code == "context_length_exceeded"


def test_a_limit_that_does_not_bind_leaves_the_model_its_context():
    admission = limited(RowCost(10), 1 << 40, 4096, Memory(WEIGHTS))
    assert admission.context_length == 4096
    admission.check(5000)  # the preparer's to refuse


def test_claims():
    admission = limited(RowCost(10, windows=((32, 5),), fixed=7), 1 << 40, 4096, Memory(WEIGHTS))
    assert admission.to_begin(100, None, 2, 0) == 2 * (7 + 10 * 768 + 5 * 32), "in steps of 256"
    assert admission.to_begin(600, 20, 1, 40) == 10 * 512
    assert admission.to_go_on(20, 4) == 0
    assert admission.to_go_on(250, 10) == 10 * 256
    assert admission.to_go_on(100, 10_000) == 512 * 10
    assert admission.for_more(0, 10) == 7 + 2560 + 160


def test_the_cheap_bound_is_above_what_a_step_adds():
    memory = Memory(WEIGHTS)
    admission = limited(RowCost(1), 10_000, 4096, memory)
    assert not admission.is_near(4)
    memory.held = 8_000
    assert admission.is_near(4)
