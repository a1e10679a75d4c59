"""Memory that is short or runs out: what can't run waits or is refused, and no answer changes."""

from __future__ import annotations

import dataclasses
import gc
import random
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

from mlx_server_nano.types import Constraint, Sampling
from mlx_server_nano.worker import admission, slots, speculate
from mlx_server_nano.worker.batch import Batch
from mlx_server_nano.worker.costs import Costs
from mlx_server_nano.worker.draft_model import DraftModel
from mlx_server_nano.worker.group import Group, Row
from mlx_server_nano.worker.loader import LoadedModel
from mlx_server_nano.worker.logprobs import LogprobReader
from mlx_server_nano.worker.prefiller import Prefiller
from mlx_server_nano.worker.sequence import Sequence
from tests.worker.conftest import Tiny
from tests.worker.harness import Driver
from tests.worker.test_engine import ARCHITECTURES, MANY_GROUPS, check, prompt, watched

WIDE = {"head_dim": 64, "num_key_value_heads": 4}
PASS = 300  # tokens whose caches take what a pass takes beside them
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


def settled_bytes() -> int:
    """What arrays hold when nothing is being computed: until then, it depends on how far a pass has got."""
    mx.synchronize()
    return mx.get_active_memory()


def limited(loaded: LoadedModel, tokens: int, **options: Any) -> Driver:
    """An engine with memory for so many tokens, in small portions. What MLX holds and what passes take is not left to chance: the
    thread that computes frees what the one that launches has allocated, and either may be ahead."""
    gc.collect()
    driver = Driver(loaded, prefill_chunk=32, busy_prefill_chunk=32, **options)
    admission = driver.engine._admission
    admission._held = settled_bytes
    # As if the model were alone: a share of all that lies in memory, other tests' models included, is kept in reserve.
    admission._reserve = loaded.info.weights_bytes // 16
    admission._workspace = loaded.row_cost(PASS)
    admission.note_workspace = lambda nbytes: None  # type: ignore[method-assign]
    admission.limit = settled_bytes() + admission._reserve + loaded.row_cost(tokens)
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
        peak = max(peak, settled_bytes())
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
    driver = limited(loaded, 2350)
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


@pytest.mark.parametrize(("tokens", "said", "drafts"), [(1200, 40, False), (1600, 600, True)])
def test_drafting_takes_only_what_is_left_over_and_gives_it_back(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, resumed: list[int], tokens: int, said: int, drafts: bool
):
    """Wrong guesses, so that both models decode on and on."""
    generous(monkeypatch)
    monkeypatch.setattr(Costs, "ratio", lambda self, shape: 0.01)
    monkeypatch.setattr(speculate, "_SIZES", (2,))
    loaded, small = tiny("qwen3", **WIDE), tiny("qwen3", seed=1, **WIDE)
    values: dict[str, Any] = {"vocab_size": loaded.info.vocab_size, "context_length": 9999, "share": 0.1, "budget": 0}
    draft_model = DraftModel(small.model, small.new_caches, row_cost=small.row_cost, **values)
    driver = limited(loaded, tokens, draft_model=draft_model, speculation=True, prefix_cache_bytes=0)
    endless = Sampling(temperature=0, logit_bias=dict.fromkeys(loaded.eos_ids, -100.0))
    request_id = driver.tokens(prompt(random.Random(12), 300), max_tokens=said, sampling=endless)
    peak, most = 0, 0
    while not peak or not driver.engine.idle:
        driver.turn()
        peak = max(peak, settled_bytes())
        most = max(most, len(draft_model._rows))
    assert (most > 0) is drafts
    assert not resumed and not driver.failures()
    assert not draft_model._rows
    assert driver.answers()[request_id, 0].tokens == said
    assert peak <= (driver.engine._admission.limit or 0) + loaded.row_cost(64)


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


class Once:
    """Takes the place of a method, and runs out of memory the first time, before or after the method's work."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, after: bool = False) -> None:
        self.left = 1
        original = getattr(owner, name)

        def method(*args: Any, **options: Any) -> Any:
            result = original(*args, **options) if after or not self.left else None
            if self.left:
                self.left -= 1
                raise RuntimeError(NO_MEMORY)
            return result

        monkeypatch.setattr(owner, name, method)


@pytest.mark.parametrize("arch", ["gemma3_text", "qwen3_next"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", ["join", "take_out", "close_gaps"])
def test_moving_rows_about_without_memory_loses_none(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, resumed, arch: str, name: str, after: bool
):
    """Some rows are where they were, some where they are to go, and one may be in between."""
    loaded = dataclasses.replace(tiny(arch), **MANY_GROUPS)
    driver = Driver(loaded)
    rng = random.Random(8)
    asked = {}
    for length, limit in ((100, 30), (90, 30), (8, 25), (9, 12)):
        ids = prompt(rng, length)
        asked[driver.tokens(ids, max_tokens=limit)] = ids, limit
    driver.turn(6)
    assert len(driver.engine._batch.groups) == 2
    with monkeypatch.context() as patch:
        fault = Once(patch, Group, name, after=after)
        driver.engine._batch._padding_limit = 1000  # all become one group
        ids = prompt(rng, 7)
        asked[driver.tokens(ids, max_tokens=20)] = ids, 20
        driver.turn(4)
        assert not fault.left
    driver.run()
    assert not driver.failures()
    assert len(resumed) >= 4
    for request_id, (ids, limit) in asked.items():
        check(loaded, driver.answers()[request_id, 0], ids, limit)


def test_a_row_that_gives_way_without_memory_for_that_goes_on_once(tiny: Tiny, monkeypatch, resumed):
    generous(monkeypatch)
    loaded = tiny("qwen3", **WIDE)
    rng = random.Random(0)
    driver = limited(loaded, 1500)
    settle, failed = Batch.settle, [False]

    def failing_once(self: Batch, joining: list[Row], *, tight: bool = False) -> None:
        if tight and not failed[0] and any(row.paused for group in self.groups for row in group.sequences):
            failed[0] = True
            raise RuntimeError(NO_MEMORY)
        settle(self, joining, tight=tight)

    monkeypatch.setattr(Batch, "settle", failing_once)
    asked = {}
    for length in (200, 40, 240, 230):
        ids = prompt(rng, length)
        asked[driver.tokens(ids, max_tokens=100)] = ids
    driver.run()
    assert failed[0] and not driver.failures()
    for request_id, ids in asked.items():
        check(loaded, driver.answers()[request_id, 0], ids, 100)


def test_a_prompt_that_nothing_can_be_copied_for_is_computed(tiny: Tiny, monkeypatch):
    loaded = tiny("qwen3")
    driver = Driver(loaded)
    ids = prompt(random.Random(9), 80)
    running = driver.tokens(ids, max_tokens=30)
    driver.turn(4)
    other = ids + prompt(random.Random(10), 20)
    with monkeypatch.context() as patch:
        fault = Once(patch, slots, "cut_copy")
        request_id = driver.tokens(other, max_tokens=10)
        driver.turn()
        assert not fault.left
    assert driver.started()[request_id].cached_tokens == 0
    driver.run()
    assert not driver.failures()
    check(loaded, driver.answers()[request_id, 0], other, 10)
    check(loaded, driver.answers()[running, 0], ids, 30)


def test_a_row_whose_caches_nothing_can_be_kept_of_has_its_answer(tiny: Tiny, monkeypatch):
    loaded = tiny("qwen3")
    driver = Driver(loaded)
    asked = {driver.tokens(ids, max_tokens=8 * len(ids)): ids for ids in ([5, 6], [7, 8, 9])}
    driver.turn(6)
    fault = Once(monkeypatch, Group, "extract")
    driver.run()
    assert not fault.left and not driver.failures()
    for request_id, ids in asked.items():
        check(loaded, driver.answers()[request_id, 0], ids, 8 * len(ids))


@pytest.mark.parametrize("arch", ["qwen3", "qwen3_next"])
def test_drafts_that_can_not_be_taken_back_without_memory(tiny: Tiny, monkeypatch, resumed, arch: str):
    loaded = tiny(arch)
    ids = prompt(random.Random(10), 12) * 6
    driver = Driver(loaded, speculation=True)
    fault = Once(monkeypatch, Group, "keep_read")
    request_id = driver.tokens(ids, max_tokens=60)
    driver.run()
    assert not fault.left, "nothing was drafted"
    assert resumed and not driver.failures()
    check(loaded, driver.answers()[request_id, 0], ids, 60)


@pytest.mark.parametrize("arch", ["qwen3", "gemma3_text", "qwen3_next"])
@pytest.mark.parametrize("message", [NO_MEMORY, "out of luck"])
def test_a_shared_pass_that_fails(tiny: Tiny, resumed, arch: str, message: str):
    """It is the pass of all its groups' rows: without memory they are all computed again, else they all end; those that
    come later are not touched."""
    loaded, model = watched(dataclasses.replace(tiny(arch), **MANY_GROUPS))
    driver = Driver(loaded)
    rng = random.Random(11)
    asked = {}
    for length in (90, 5, 6):
        ids = prompt(rng, length)
        asked[driver.tokens(ids, max_tokens=30)] = ids
    driver.turn(6)
    assert len(driver.engine._batch.groups) == 2
    model.shapes.clear()
    left = [1]

    def fail(inputs: mx.array) -> bool:
        if inputs.shape == (3, 1) and left[0]:
            left[0] = 0
            raise RuntimeError(message)
        return False

    model.fail = fail
    driver.turn()
    assert model.shapes[0] == (3, 1) and not left[0], "there was no shared pass"
    later = prompt(rng, 20)
    after = driver.tokens(later, max_tokens=10)
    driver.run()
    check(tiny(arch), driver.answers()[after, 0], later, 10)
    if message != NO_MEMORY:
        assert set(driver.failures()) == set(asked)
        return
    assert len(resumed) == 3 and not driver.failures()
    for request_id, ids in asked.items():
        check(tiny(arch), driver.answers()[request_id, 0], ids, 30)


def test_a_row_whose_two_passes_fail_is_computed_again_once(tiny: Tiny, monkeypatch, resumed):
    """One is launched before the other is read."""
    loaded, model = watched(tiny("qwen3"))
    driver = Driver(loaded)
    request_id = driver.tokens([5, 6, 7], max_tokens=20, logprobs=1)
    driver.turn(6)
    with monkeypatch.context() as patch:
        fault = Once(patch, LogprobReader, "read")
        model.fail = failing(1, lambda inputs: inputs.shape == (1, 1))
        driver.turn()
        assert not fault.left
    driver.run()
    assert len(resumed) == 1
    check(tiny("qwen3"), driver.answers()[request_id, 0], [5, 6, 7], 20)


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
