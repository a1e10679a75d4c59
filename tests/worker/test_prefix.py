from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlx_server_nano.worker.prefix import Entry, PrefixCache


def tokens(*ids: int) -> np.ndarray:
    return np.array(ids, np.int32)


def entry(cache: PrefixCache, *ids: int) -> Entry:
    found = cache.find(tokens(*ids))
    assert found is not None and found[1] == len(ids)
    return found[0]


RUNS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=12)


def shared(a: list[int], b: list[int]) -> int:
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n


@given(RUNS, st.lists(st.integers(0, 2), min_size=1, max_size=10))
def test_finds_what_a_search_of_all_runs_finds(runs: list[list[int]], wanted: list[int]):
    cuttable, whole = PrefixCache(1 << 30, cut=True), PrefixCache(1 << 30, cut=False)
    for run in runs:
        cuttable.insert(tokens(*run), [run], 1)
        whole.insert(tokens(*run), [run], 1)
    different = {tuple(run) for run in runs}
    assert len(whole) == whole.nbytes == len(different)
    ends = {run for run in different if not any(other != run and other[: len(run)] == run for other in different)}
    assert len(cuttable) == cuttable.nbytes == len(ends), "a run that a longer one covers is not kept twice"
    best = max(shared(run, wanted) for run in runs)
    found = cuttable.find(tokens(*wanted))
    if best == 0:
        assert found is None
    else:
        assert found is not None and found[1] == best and found[0].caches[0][:best] == wanted[:best]
    longest = max((len(run) for run in runs if wanted[: len(run)] == run), default=0)
    exact = whole.find(tokens(*wanted))
    assert (exact[1] if exact else 0) == longest


@given(RUNS, st.data())
def test_removing_leaves_the_others(runs: list[list[int]], data: st.DataObject):
    cache = PrefixCache(1 << 30, cut=False)
    for run in runs:
        cache.insert(tokens(*run), [run], 1)
    entries = {tuple(run): entry(cache, *run) for run in runs}
    order = data.draw(st.permutations(sorted(entries)))
    for ids in order:
        cache.remove(entries.pop(ids))
        for left, kept in entries.items():
            assert entry(cache, *left) is kept
    assert cache.nbytes == 0 and cache.find(tokens(0)) is None


def test_the_least_recently_used_goes_first():
    cache = PrefixCache(2, cut=True)
    cache.insert(tokens(1, 2), ["a"], 1)
    cache.insert(tokens(3, 4), ["b"], 1)
    cache.find(tokens(1, 2))
    cache.insert(tokens(5, 6), ["c"], 1)
    assert cache.find(tokens(3, 4)) is None
    assert cache.find(tokens(1, 2)) is not None


def test_a_leased_entry_is_neither_counted_nor_evicted():
    cache = PrefixCache(1, cut=True)
    cache.insert(tokens(1, 2, 3), ["a"], 1)
    running = entry(cache, 1, 2, 3)
    cache.lease(running, tokens(1, 2))
    assert cache.nbytes == 0
    cache.insert(tokens(7), ["b"], 1)
    assert cache.find(tokens(1, 2, 3)) == (running, 2)
    cache.find(tokens(7))
    cache.release(running)
    assert cache.nbytes == 1 and cache.find(tokens(1, 2)) is None, "the older of the two was evicted"


def test_an_entry_too_large_for_the_budget_is_not_kept():
    cache = PrefixCache(10, cut=True)
    cache.insert(tokens(1), ["small"], 5)
    cache.insert(tokens(2), ["large"], 11)
    assert cache.find(tokens(2)) is None
    assert cache.find(tokens(1)) is not None
