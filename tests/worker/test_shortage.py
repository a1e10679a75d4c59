"""Memory that is short or runs out: what can't run waits or is refused, and no answer changes."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

from mlx_server_nano.types import Constraint, Sampling
from mlx_server_nano.worker import admission, slots
from mlx_server_nano.worker.loader import LoadedModel
from mlx_server_nano.worker.logprobs import LogprobReader
from mlx_server_nano.worker.prefiller import Prefiller
from mlx_server_nano.worker.sequence import Sequence
from tests.worker.conftest import Tiny
from tests.worker.harness import Driver
from tests.worker.test_engine import ARCHITECTURES, check, prompt, watched

WIDE = {"head_dim": 64, "num_key_value_heads": 4}
NO_MEMORY = "[malloc] Unable to allocate 8589934592 bytes."


@pytest.fixture
def resumed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of rows that were interrupted."""
    lengths: list[int] = []
    resume = Prefiller.resume

    def note(self: Prefiller, row: Sequence) -> None:
        lengths.append(len(row.prompt) + len(row.output))
        resume(self, row)

    monkeypatch.setattr(Prefiller, "resume", note)
    return lengths


def limited(loaded: LoadedModel, tokens: int, **options: Any) -> Driver:
    """An engine with memory for so many tokens, in small portions, whose forward passes take little."""
    gc.collect()
    driver = Driver(loaded, prefill_chunk=32, busy_prefill_chunk=32, **options)
    admission = driver.engine._admission
    admission.limit = mx.get_active_memory() + admission._reserve + loaded.row_cost(tokens)
    return driver


def generous(monkeypatch: pytest.MonkeyPatch) -> None:
    """Admit rows that will not find room for all that they say."""
    monkeypatch.setattr(admission, "_AHEAD", 8)
    monkeypatch.setattr(slots, "GROWTH", 16)


@pytest.mark.parametrize("arch", ["qwen3", "gemma3_text", "qwen3_next"])
def test_rows_that_outgrow_memory_wait_and_go_on_unchanged(tiny: Tiny, monkeypatch, resumed, arch: str):
    generous(monkeypatch)
    loaded = tiny(arch, **WIDE)
    rng = random.Random(0)
    driver = limited(loaded, 1500)
    asked = {}
    for length in (200, 40, 240, 230):
        ids = prompt(rng, length)
        asked[driver.tokens(ids, max_tokens=100)] = ids
    peak = 0
    while not peak or not driver.engine.idle:
        driver.turn()
        peak = max(peak, mx.get_active_memory())
    assert not driver.failures()
    for request_id, ids in asked.items():
        check(loaded, driver.answers()[request_id, 0], ids, 100)
    assert resumed
    assert peak <= (driver.engine._admission.limit or 0) + loaded.row_cost(256) - loaded.row_cost(0)


def test_an_interrupted_row_goes_on_with_its_seed_grammar_penalties_and_choices(tiny: Tiny, monkeypatch, resumed):
    loaded = tiny("qwen3", **WIDE)
    ids = prompt(random.Random(1), 240)
    sampled = Sampling(temperature=1.1, top_p=0.9, seed=5, frequency_penalty=0.4, repetition_penalty=1.1)
    grammar = Constraint(grammar='start: ("yes" | "no" | "maybe so"){12}')

    def ask(driver: Driver) -> list[int]:
        return [
            driver.tokens(ids, max_tokens=90),
            driver.tokens(ids[:200], sampling=sampled, max_tokens=90, n=2, logprobs=2),
            driver.tokens(ids[:180], sampling=sampled, constraint=grammar, max_tokens=90),
        ]

    free = Driver(loaded)
    expected = ask(free)
    free.run()
    generous(monkeypatch)
    driver = limited(loaded, 1300)
    found = ask(driver)
    driver.run()
    assert resumed
    assert not driver.failures()
    for one, other in zip(expected, found, strict=True):
        for choice in (0, 1) if one == expected[1] else (0,):
            a, b = free.answers()[one, choice], driver.answers()[other, choice]
            assert (a.text, a.tokens, a.finish) == (b.text, b.tokens, b.finish)
            assert [value.token for value in a.logprobs] == [value.token for value in b.logprobs]


def test_what_does_not_fit_waits_for_its_turn_and_what_never_fits_is_refused(tiny: Tiny):
    loaded = tiny("qwen3", **WIDE)
    rng = random.Random(2)
    driver = limited(loaded, 2040)
    first = driver.tokens(prompt(rng, 900), max_tokens=5)
    second = driver.tokens(prompt(rng, 900), max_tokens=5)
    never = driver.tokens(prompt(rng, 1900), max_tokens=5)
    third = driver.tokens(prompt(rng, 20), max_tokens=5)
    driver.turn(3)
    assert set(driver.started()) == {first}
    driver.run()
    assert list(driver.started()) == [first, second, third], "in the order they came"
    assert set(driver.failures()) == {never}
    assert driver.failures()[never].kind == "ContextLengthError"
    assert "1900 tokens" in driver.failures()[never].message
    assert {driver.answers()[request_id, 0].tokens for request_id in (first, second, third)} == {5}


def test_the_prefix_cache_gives_way_but_for_what_the_prompt_needs(tiny: Tiny):
    loaded = tiny("qwen3", **WIDE)
    rng = random.Random(3)
    driver = limited(loaded, 2600)
    talk, other = prompt(rng, 900), prompt(rng, 600)
    for ids in (talk, other):
        driver.tokens(ids, max_tokens=2)
        driver.run()
    longer = driver.tokens(talk + prompt(rng, 400), max_tokens=2)
    driver.run()
    assert driver.started()[longer].cached_tokens >= 899
    again = driver.tokens(other, max_tokens=2)
    driver.run()
    assert driver.started()[again].cached_tokens == 0, "the older one had to go"


def test_a_row_alone_ends_when_memory_is_full_as_it_does_when_the_context_is(tiny: Tiny):
    loaded = tiny("qwen3", **WIDE)
    driver = limited(loaded, 700)
    ids = prompt(random.Random(4), 300)
    request_id = driver.tokens(ids)
    driver.run()
    answer = driver.answers()[request_id, 0]
    assert answer.finish is not None and answer.finish.value == "length"
    assert 100 < answer.tokens <= 400


# Allocations that fail.


def failing(times: int, condition: Callable[[mx.array], bool]) -> Callable[[mx.array], bool]:
    left = [times]

    def fail(inputs: mx.array) -> bool:
        if left[0] and condition(inputs):
            left[0] -= 1
            raise RuntimeError(NO_MEMORY)
        return False

    return fail


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_decode_step_without_memory_is_retried_and_no_answer_changes(tiny: Tiny, resumed, arch: str):
    loaded, model = watched(tiny(arch))
    rng = random.Random(5)
    driver = Driver(loaded)
    asked = {}
    for length in (40, 7, 1):
        ids = prompt(rng, length)
        asked[driver.tokens(ids, max_tokens=25)] = ids
    driver.turn(8)
    model.fail = failing(1, lambda inputs: inputs.shape == (3, 1))
    driver.turn()
    assert len(resumed) == 3
    driver.run()
    assert not driver.failures()
    for request_id, ids in asked.items():
        check(tiny(arch), driver.answers()[request_id, 0], ids, 25)


@pytest.mark.parametrize("arch", ["qwen3", "gemma3_text", "qwen3_next"])
@pytest.mark.parametrize("calls", [3, 40])
def test_a_pass_that_stops_half_way_leaves_no_trace(tiny: Tiny, monkeypatch, resumed, arch: str, calls: int):
    """In a layer, after those below it have moved on: in prefill and in decode, in a row alone and in slots."""
    loaded = tiny(arch)
    rng = random.Random(6)
    driver = Driver(loaded, prefill_chunk=32, busy_prefill_chunk=16)
    asked = {}
    layer = type(loaded.model.layers[0])
    original = layer.__call__
    count = [0]

    def stumbling(self: Any, *args: Any, **options: Any) -> Any:
        count[0] += 1
        if count[0] == calls:
            raise RuntimeError("[metal::malloc] Attempting to allocate 9 bytes which is greater than the maximum")
        return original(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(layer, "__call__", stumbling)
        for length in (60, 33):
            ids = prompt(rng, length)
            asked[driver.tokens(ids, max_tokens=12)] = ids
            driver.turn(4)
        driver.run()
    assert not driver.failures()
    for request_id, ids in asked.items():
        check(loaded, driver.answers()[request_id, 0], ids, 12)


def test_a_second_failure_in_a_row_ends_the_rows(tiny: Tiny):
    loaded, model = watched(tiny("qwen3"))
    driver = Driver(loaded)
    request_id = driver.tokens([5, 6, 7], max_tokens=30)
    driver.turn(6)
    model.fail = failing(2, lambda inputs: inputs.shape == (1, 1))
    driver.run()
    assert NO_MEMORY in driver.failures()[request_id].message
    later = driver.tokens([5, 6, 7], max_tokens=5)
    driver.run()
    check(tiny("qwen3"), driver.answers()[later, 0], [5, 6, 7], 5)


def test_a_row_may_fail_again_once_it_has_got_on(tiny: Tiny):
    loaded, model = watched(tiny("qwen3"))
    driver = Driver(loaded)
    request_id = driver.tokens([5, 6, 7], max_tokens=30)
    for _ in range(4):
        driver.turn(6)
        model.fail = failing(1, lambda inputs: inputs.shape == (1, 1))
    driver.run()
    check(tiny("qwen3"), driver.answers()[request_id, 0], [5, 6, 7], 30)


def test_a_prefill_without_memory_begins_anew_once(tiny: Tiny):
    loaded, model = watched(tiny("qwen3"))
    ids = prompt(random.Random(7), 60)
    driver = Driver(loaded, prefill_chunk=16)
    request_id = driver.tokens(ids, max_tokens=5)
    driver.turn(2)
    model.fail = failing(1, lambda inputs: inputs.shape[1] > 1)
    driver.run()
    check(tiny("qwen3"), driver.answers()[request_id, 0], ids, 5)
    assert [event.request_id for event in driver.recorder.events].count(request_id) <= 6, (
        "it begins once for the client"
    )
    model.fail = failing(2, lambda inputs: inputs.shape[1] > 1)
    lost = driver.tokens(ids[::-1], max_tokens=5)
    driver.run()
    assert NO_MEMORY in driver.failures()[lost].message


def test_a_step_whose_tokens_never_come_is_retried(tiny: Tiny, monkeypatch, resumed):
    """The failure shows when the tokens are read, a step later; seeded rows draw the same numbers again."""
    loaded = tiny("qwen3")
    sampling = Sampling(temperature=1.2, seed=3)
    free = Driver(loaded)
    expected = free.tokens([5, 6, 7], max_tokens=20, sampling=sampling, logprobs=1)
    free.run()
    driver = Driver(loaded)
    request_id = driver.tokens([5, 6, 7], max_tokens=20, sampling=sampling, logprobs=1)
    driver.turn(6)

    def fail(*args: Any) -> Any:
        raise RuntimeError(NO_MEMORY)

    with monkeypatch.context() as patch:
        patch.setattr(LogprobReader, "read", fail)
        driver.turn()
    driver.run()
    assert resumed
    assert driver.answers()[request_id, 0].text == free.answers()[expected, 0].text


def test_a_waiting_row_can_be_cancelled(tiny: Tiny, resumed):
    loaded, model = watched(tiny("qwen3"))
    driver = Driver(loaded)
    request_id = driver.tokens([5, 6, 7], max_tokens=30, n=2)
    driver.turn(6)
    model.fail = failing(1, lambda inputs: inputs.shape == (2, 1))
    driver.turn()
    assert len(resumed) == 2
    driver.cancel(request_id)
    driver.turn()
    assert driver.engine.idle
