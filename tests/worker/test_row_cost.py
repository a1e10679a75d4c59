"""The reckoned cost of a row against what its caches hold."""

from __future__ import annotations

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_server_nano.worker import slots
from mlx_server_nano.worker.row_cost import RowCost


@pytest.mark.parametrize("arch", ["qwen3", "gemma3_text", "qwen3_next", "lfm2", "mamba2"])
@pytest.mark.parametrize("length", [256, 512])
def test_a_row_takes_what_it_is_reckoned_to(tiny, arch, length):
    """At lengths where mlx-lm's caches keep no reserve; a window is a little larger while a prompt goes through it."""
    loaded = tiny(arch)
    caches = loaded.new_caches()
    for _ in range(length // 256):
        loaded.model(mx.array([[7] * 256]), cache=caches)
    loaded.model(mx.array([[7]]), cache=caches)
    held = sum(array.nbytes for cache in caches for array in slots.arrays(cache))
    assert held == loaded.row_cost(length + 256) or (arch == "gemma3_text" and held <= loaded.row_cost(length + 512))


@given(st.integers(0, 50), st.lists(st.tuples(st.integers(1, 40), st.integers(1, 9)), max_size=2), st.integers(0, 900))
def test_the_longest_row_within_some_bytes(per_token, windows, nbytes):
    cost = RowCost(per_token, tuple(windows), 30)
    longest = cost.longest(nbytes, 64)
    assert longest == max((n for n in range(65) if cost(n) <= nbytes), default=0)
