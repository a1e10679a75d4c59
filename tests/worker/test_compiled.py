"""Compiled decode steps, forced on: the tokens are the same, the caches stay in place and go on being useful."""

from __future__ import annotations

import dataclasses
import random
import shutil
from typing import Any

import mlx.core as mx
import pytest

from mlx_server_nano.worker import compiled as module
from mlx_server_nano.worker import slots
from mlx_server_nano.worker.compiled import ANY_LENGTH, CompiledStep, Compiles, plain_step
from mlx_server_nano.worker.joint import Part
from mlx_server_nano.worker.loader import LoadedModel
from tests.worker.conftest import Tiny
from tests.worker.harness import Driver
from tests.worker.test_engine import check, crowd, prompt

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="on a CPU, MLX compiles with the system's g++")


def forced(loaded: LoadedModel) -> CompiledStep:
    return CompiledStep(loaded.model, Compiles(ANY_LENGTH, ANY_LENGTH), settled=1)


def usable(step: CompiledStep) -> bool:
    return step.compiles == Compiles(ANY_LENGTH, ANY_LENGTH)


@pytest.mark.parametrize("arch", ["qwen3", "llama", "mistral", "gemma3_text", "qwen3_moe", "lfm2"])
def test_greedy_output_is_mlx_lms_in_any_crowd(tiny: Tiny, arch: str):
    loaded = tiny(arch)
    step = forced(loaded)
    crowd(loaded, seed=2, requests=6, compiled=step)
    assert usable(step)
    assert {shape.rows for shapes in step._traced for shape in shapes} > {1}


@pytest.mark.parametrize("arch", ["qwen3", "gemma3_text"])
def test_a_row_grows_past_its_room_and_its_caches_serve_the_next_request(tiny: Tiny, arch: str):
    loaded = tiny(arch)
    step = forced(loaded)
    driver = Driver(loaded, compiled=step)
    ids = prompt(random.Random(1), 250)
    first = driver.tokens(ids, max_tokens=12)
    driver.run()
    check(loaded, driver.answers()[first, 0], ids, 12)
    assert usable(step)
    assert {shape.bound for shapes in step._traced for shape in shapes} == {256, 512}
    longer = [*ids, *prompt(random.Random(2), 5)]
    second = driver.tokens(longer, max_tokens=12)
    driver.run()
    check(loaded, driver.answers()[second, 0], longer, 12)
    assert driver.started()[second].cached_tokens > 240


@pytest.mark.parametrize("rows", [1, 3])
def test_keys_and_values_are_written_in_place(tiny: Tiny, rows: int):
    loaded = tiny("qwen3")
    step = forced(loaded)
    lengths = [1000 + i for i in range(rows)]
    own = [loaded.new_caches() for _ in lengths]
    for caches, length in zip(own, lengths, strict=True):
        loaded.model(mx.array([[1] * length]), cache=caches)
    caches = own[0]
    if rows > 1:
        caches = [slots.slots_for(cache) for cache in caches]
        for layer, shared in enumerate(caches):
            for slot, theirs in enumerate(own):
                slots.put(shared, slot, theirs[layer])
    del own
    inputs = mx.array([[1]] * rows)
    extra = []
    for i in range(4):
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        logits = step(inputs, [Part(caches, [length + i for length in lengths])])
        assert logits is not None
        mx.eval(logits, *(array for cache in caches for array in slots.arrays(cache)))
        extra.append(mx.get_peak_memory() - before)
        del logits
    # Attention's scores and the logits are a fraction of the keys and values of one layer.
    assert max(extra[1:]) < caches[0].keys.nbytes


def test_a_model_that_can_not_be_compiled_goes_on_without(tiny: Tiny, caplog: pytest.LogCaptureFixture):
    plain = tiny("llama")

    class Counts:
        """It wants the position as a number."""

        def __call__(self, inputs: mx.array, cache: Any = None) -> mx.array:
            assert all(isinstance(layer.offset, int) for layer in cache)
            logits: mx.array = plain.model(inputs, cache=cache)
            return logits

        def __getattr__(self, name: str) -> Any:
            return getattr(plain.model, name)

    loaded = dataclasses.replace(plain, model=Counts())
    step = forced(loaded)
    driver = Driver(loaded, compiled=step)
    ids = prompt(random.Random(3), 20)
    request = driver.tokens(ids, max_tokens=8)
    driver.run()
    check(plain, driver.answers()[request, 0], ids, 8)
    assert not usable(step) and "can't be compiled" in caplog.text


def test_a_step_is_traced_when_its_rows_have_settled(tiny: Tiny):
    loaded = tiny("qwen3")
    step = CompiledStep(loaded.model, Compiles(alone=ANY_LENGTH), settled=3)
    caches = loaded.new_caches()
    loaded.model(mx.array([[1, 2, 3]]), cache=caches)
    taken = []
    for i in range(4):
        logits = step(mx.array([[4]]), [Part(caches, [3 + i])])
        taken.append(logits is not None)
        if logits is None:
            plain_step(loaded.model, mx.array([[4]]), [Part(caches, [3 + i])])
    assert taken == [False, False, True, True]


def test_a_long_row_that_shares_a_step_needs_no_mask(tiny: Tiny, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_LONG_ALONE", 100)
    loaded = tiny("qwen3")
    parts = []
    for length in (90, 110):
        caches = loaded.new_caches()
        loaded.model(mx.array([[1] * length]), cache=caches)
        parts.append(Part(caches, [length]))
    step = CompiledStep(loaded.model, Compiles(together=ANY_LENGTH), settled=1)
    assert step(mx.array([[4], [4]]), parts) is None
    assert step(mx.array([[4], [4]]), [parts[0], parts[0]]) is not None


def test_joins_and_leaves_hardly_make_new_shapes(tiny: Tiny):
    loaded = tiny("qwen3")
    step = forced(loaded)
    driver = Driver(loaded, compiled=step, prefix_cache_bytes=0)
    rng = random.Random(4)
    for _ in range(30):
        driver.tokens(prompt(rng, rng.randrange(20, 60)), max_tokens=rng.randrange(20, 60))
        driver.turn(4)
    driver.run()
    assert not driver.failures()
    rows = {shape.rows for shapes in step._traced for shape in shapes}
    assert rows <= {1, 2, 4, 8, 12, 16} and len(rows) > 3
    assert len(step._traced) <= 12


def test_few_traces_are_kept(tiny: Tiny, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_KEPT", 2)
    loaded = tiny("qwen3")
    step = forced(loaded)
    driver = Driver(loaded, compiled=step)
    for length in (3, 300, 600):
        driver.tokens(prompt(random.Random(length), length), max_tokens=3)
        driver.run()
    assert [shape.bound for shapes in step._traced for shape in shapes] == [512, 768]


def test_what_is_off_stays_off(tiny: Tiny):
    loaded = tiny("qwen3")
    caches = loaded.new_caches()
    alone = CompiledStep(loaded.model, Compiles(alone=ANY_LENGTH), settled=1)
    assert alone(mx.array([[4]]), [Part(caches, [0])]) is None  # a cache without a token has no shape
    loaded.model(mx.array([[1, 2, 3]]), cache=caches)
    assert alone(mx.array([[4], [4]]), [Part(caches, [3, 3])]) is None
    for compiles in (Compiles(together=ANY_LENGTH), Compiles(alone=3)):
        assert CompiledStep(loaded.model, compiles, settled=1)(mx.array([[4]]), [Part(caches, [3])]) is None
