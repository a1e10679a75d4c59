"""Forward passes through rows whose caches lie apart."""

from __future__ import annotations

import dataclasses
import importlib
import random
import shutil
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import base
from mlx_lm.models.cache import ArraysCache

from mlx_server_nano.worker import joint, slots
from mlx_server_nano.worker.compiled import ANY_LENGTH, CompiledStep, Compiles, plain_step
from mlx_server_nano.worker.joint import Part
from mlx_server_nano.worker.loader import LoadedModel
from tests.worker import harness
from tests.worker.conftest import Tiny
from tests.worker.harness import Driver
from tests.worker.test_engine import MANY_GROUPS, check, crowd, noted_passes, prompt, watched


def part(loaded: LoadedModel, lengths: list[int]) -> Part:
    """Rows whose prompts depend on their length only."""
    rows = [loaded.new_caches() for _ in lengths]
    for caches, length in zip(rows, lengths, strict=True):
        loaded.model(mx.array([prompt(random.Random(length), length)]), cache=caches)
    if len(rows) == 1:
        return Part(rows[0], lengths)
    together = [slots.slots_for(cache) for cache in rows[0]]
    for layer, shared in enumerate(together):
        for slot, caches in enumerate(rows):
            slots.put(shared, slot, caches[layer])
    return Part(together, lengths)


def logits_of(loaded: LoadedModel, tokens: list[list[int]], parts: list[Part]) -> np.ndarray:
    return np.array(plain_step(loaded.model, mx.array(tokens), parts).astype(mx.float32))


@pytest.mark.parametrize(
    ("arch", "width"), [("qwen3", 1), ("qwen3", 3), ("gemma3_text", 1), ("qwen3_next", 1), ("lfm2", 1)]
)
def test_parts_come_out_as_they_would_apart(tiny: Tiny, arch: str, width: int):
    loaded = tiny(arch)
    groups = [[70], [3, 9], [30, 31, 40]]
    parts, apart = ([part(loaded, lengths) for lengths in groups] for _ in range(2))
    for step in range(4):
        tokens = [[7 + step + i] * width for i in range(6)]
        together = logits_of(loaded, tokens, parts)
        rows = list(joint.ranges([len(lengths) for lengths in groups]))
        for at, alone in zip(rows, apart, strict=True):
            np.testing.assert_allclose(together[at], logits_of(loaded, tokens[at], [alone]), atol=2e-4)
        parts, apart = (
            [Part(p.caches, [length + width for length in p.lengths]) for p in some] for some in (parts, apart)
        )


@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_caches(tiny_folder: Callable[..., Any], bits: int):
    loaded = harness.load(tiny_folder("qwen3", head_dim=32), kv_bits=bits)
    assert loaded.joins
    parts, apart = ([part(loaded, [40]), part(loaded, [3, 9])] for _ in range(2))
    together = logits_of(loaded, [[5], [6], [7]], parts)
    np.testing.assert_allclose(together[:1], logits_of(loaded, [[5]], apart[:1]), atol=2e-4)
    np.testing.assert_allclose(together[1:], logits_of(loaded, [[6], [7]], apart[1:]), atol=2e-4)


@pytest.mark.skipif(shutil.which("g++") is None, reason="on a CPU, MLX compiles with the system's g++")
@pytest.mark.parametrize("arch", ["qwen3", "gemma3_text", "lfm2"])
def test_compiled(tiny: Tiny, arch: str):
    loaded = tiny(arch)
    compiled = CompiledStep(loaded.model, Compiles(ANY_LENGTH, ANY_LENGTH), settled=1)
    lengths = [[40], [3, 9]]
    parts, plain = ([part(loaded, rows) for rows in lengths] for _ in range(2))
    for step in range(3):
        inputs = [[5 + step], [6], [7]]
        parts, plain = (
            [Part(p.caches, [n + step for n in rows]) for p, rows in zip(some, lengths, strict=True)]
            for some in (parts, plain)
        )
        logits = compiled(mx.array(inputs), parts)
        assert logits is not None
        np.testing.assert_allclose(np.array(logits), logits_of(loaded, inputs, plain)[:, -1], atol=2e-4)
    assert max(map(len, compiled._traced)) == 2


def test_a_turn_is_one_pass_over_the_weights(tiny: Tiny, monkeypatch: pytest.MonkeyPatch):
    loaded, model = watched(dataclasses.replace(tiny("qwen3"), **MANY_GROUPS))
    driver = Driver(loaded)
    rng = random.Random(4)
    for length in (90, 5, 6):
        driver.tokens(prompt(rng, length), max_tokens=30)
    driver.turn(6)
    assert len(driver.engine._batch.groups) == 2
    model.shapes.clear()
    driver.turn(3)
    assert model.shapes == [(3, 1)] * 3


def test_memory_of_rows_of_very_different_length(tiny: Tiny):
    """One of 3,500 tokens and seven of 16 hold little more than their tokens."""
    loaded = tiny("qwen3")
    driver = Driver(loaded, prefill_chunk=4096, prefix_cache_bytes=0)
    rng = random.Random(5)
    for length in (3500, *[16] * 7):
        driver.tokens(prompt(rng, length), max_tokens=60)
    batch = driver.engine._batch
    for _ in range(40):
        if batch.rows < 8:
            driver.turn()
    assert batch.rows == 8
    # Beside that, a row has room for 256 tokens to come.
    assert batch.nbytes <= loaded.row_cost(3500 + 256) + 8 * loaded.row_cost(16 + 40 + 256 + 32)


def test_what_is_kept_of_a_row_holds_no_others_states(tiny: Tiny):
    """Of one that was alone and shared its last pass with eight others."""
    loaded = dataclasses.replace(tiny("qwen3_next"), **MANY_GROUPS)
    driver = Driver(loaded, prefill_chunk=4096)
    rng = random.Random(7)
    mx.clear_cache()
    long = driver.tokens(prompt(rng, 300), max_tokens=20)
    for _ in range(8):
        driver.tokens(prompt(rng, 9), max_tokens=60)
    while (long, 0) not in driver.answers() or driver.answers()[long, 0].finish is None:
        driver.turn()
    driver.turn(2)
    kept = max((entry for _, entry in driver.engine._reuse._prefixes.unleased()), key=lambda entry: entry.length)
    assert kept.length == 319
    states = [array for cache in kept.caches if isinstance(cache, ArraysCache) for array in cache.cache]
    mx.eval(states)
    expected = sum(array.nbytes for array in states)
    driver.run()
    before = mx.get_active_memory()
    for cache in kept.caches:
        if isinstance(cache, ArraysCache):
            cache.cache = []
    del states
    assert before - mx.get_active_memory() <= 1.2 * expected + 4096 * 16


def test_groups_merge_when_they_have_become_alike(tiny: Tiny, monkeypatch: pytest.MonkeyPatch):
    loaded = dataclasses.replace(tiny("qwen3"), **MANY_GROUPS)
    driver = Driver(loaded)
    rng = random.Random(6)
    asked = {}
    for length in (100, 90, 8, 9):
        ids = prompt(rng, length)
        asked[driver.tokens(ids, max_tokens=30)] = ids
    driver.turn(6)
    sizes = sorted(map(len, driver.engine._batch.groups))
    assert sizes == [2, 2]
    driver.engine._batch._padding_limit = 1000
    driver.turn(4)
    assert [len(group) for group in driver.engine._batch.groups] == [4]
    driver.run()
    for request_id, ids in asked.items():
        check(loaded, driver.answers()[request_id, 0], ids, 30)


def test_a_model_with_attention_of_its_own_keeps_passes_apart(tiny_folder: Callable[..., Any], monkeypatch):
    monkeypatch.setattr(joint, "prepare", lambda model: None)
    module = importlib.import_module("mlx_lm.models.qwen2")
    monkeypatch.setattr(module, "scaled_dot_product_attention", base.scaled_dot_product_attention)
    loaded = harness.load(tiny_folder("qwen2"))
    assert not loaded.joins and loaded.info.batchable
    counts = noted_passes(monkeypatch)
    crowd(dataclasses.replace(loaded, **MANY_GROUPS), seed=5, requests=6)
    assert max(counts) == 1


def test_a_mask_that_no_cache_made_is_refused():
    with pytest.raises(TypeError):
        joint.attend(mx.zeros((2, 1, 1, 4)), joint.Pieces([]), joint.Pieces([]), None, 1.0, mx.zeros((1, 1)))
