"""Reuse never changes a greedy answer: hits, branches, evictions, cancellations, on every kind of cache."""

from __future__ import annotations

import random

import pytest

from tests.worker.harness import Driver
from tests.worker.test_engine import check, watched


@pytest.mark.parametrize("arch", ["qwen3", "gemma3_text", "qwen3_next", "lfm2", "mamba2"])
@pytest.mark.parametrize(("seed", "budget", "padding"), [(0, 1 << 30, 100_000), (1, 60_000, 10)])
def test_answers_do_not_depend_on_what_came_before(tiny, arch, seed, budget, padding):
    loaded = tiny(arch)
    rng = random.Random(seed)
    driver = Driver(loaded, prefix_cache_bytes=budget, prefill_chunk=64, busy_prefill_chunk=16)
    driver.engine._batch._padding_limit = padding
    histories = [[rng.randrange(10, 3000) for _ in range(60)]]
    asked: dict[int, tuple[list[int], int]] = {}

    for _ in range(14):
        base = rng.choice(histories)
        shared = base[: rng.choice([len(base), rng.randrange(1, len(base) + 1)])]
        ids = shared + [rng.randrange(10, 3000) for _ in range(rng.choice([0, 1, 5, 30]))]
        count = rng.randrange(1, 20)
        request = driver.tokens(ids, max_tokens=count, n=rng.choice([1, 1, 2]))
        asked[request] = (ids, count)
        driver.turn(rng.randrange(20))
        histories.append(ids)
        if rng.random() < 0.25:
            driver.cancel(request)
            del asked[request]
        elif rng.random() < 0.6:
            driver.run()
            histories.append(ids + driver.outputs[request, 0])
    driver.run()
    answers, started = driver.answers(), driver.started()
    for request, (ids, count) in asked.items():
        found = [answer for (owner, _), answer in answers.items() if owner == request]
        check(loaded, found[0], ids, count)
        assert all(answer.output == found[0].output for answer in found)
        assert started[request].cached_tokens < len(ids)
    if budget > 1 << 20:
        assert sum(event.cached_tokens for event in started.values()) > 100
    assert driver.engine._reuse.nbytes <= budget
    assert not any(entry.leased for entry in driver.engine._reuse._prefixes._entries.values())


@pytest.mark.parametrize("arch", ["qwen3", "qwen3_next"])
def test_prompts_that_come_together_share_one_prefill(tiny, arch):
    """A sub-request that begins like one that is computed waits for it; a short one does not wait behind a long one."""
    loaded, model = watched(tiny(arch))
    rng = random.Random(0)
    ids = [rng.randrange(10, 3000) for _ in range(601)]
    driver = Driver(loaded, prefill_chunk=128, busy_prefill_chunk=128)
    same = [driver.tokens(ids, max_tokens=6) for _ in range(3)]
    branch = driver.tokens(ids[:500] + ids[:40], max_tokens=6)
    driver.run()
    prefilled = sum(count for _, count in model.shapes if count > 16)
    assert prefilled <= (600 + 40 if arch == "qwen3" else 600 + 540), "once, and what the branch has of its own"
    assert len({driver.answers()[request_id, 0].text for request_id in same}) == 1
    alone = Driver(tiny(arch), prefix_cache_bytes=0)
    expected = [alone.tokens(ids, max_tokens=6), alone.tokens(ids[:500] + ids[:40], max_tokens=6)]
    alone.run()
    for request_id, other in zip((same[0], branch), expected, strict=True):
        assert driver.answers()[request_id, 0].text == alone.answers()[other, 0].text
    driver = Driver(tiny(arch), prefill_chunk=64, prefix_cache_bytes=0)
    first, second = driver.tokens(ids, max_tokens=2), driver.tokens(ids, max_tokens=2)
    driver.turn()
    assert set(driver.started()) == {first, second}, "nothing is kept, so there is nothing to wait for"


def test_who_waits_for_a_shared_beginning_lets_others_pass(tiny):
    rng = random.Random(1)
    ids = [rng.randrange(10, 3000) for _ in range(601)]
    driver = Driver(tiny("qwen3"), prefill_chunk=64, busy_prefill_chunk=64)
    first, second = driver.tokens(ids, max_tokens=6), driver.tokens(ids, max_tokens=6)
    other = driver.tokens(ids[:20][::-1], max_tokens=2)
    driver.turn()
    assert set(driver.started()) == {first, other}
    driver.run()
    assert driver.started()[second].cached_tokens == 600
