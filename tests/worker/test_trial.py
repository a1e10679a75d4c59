"""The trial of compiled steps after loading. How long steps take is made up here."""

from __future__ import annotations

import random
import shutil
from typing import Any

import mlx.core as mx
import pytest

from mlx_server_nano.worker import trial
from mlx_server_nano.worker.compiled import ANY_LENGTH, CompiledStep, Compiles
from tests.worker.conftest import Tiny
from tests.worker.harness import Driver
from tests.worker.test_engine import check, prompt

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="on a CPU, MLX compiles with the system's g++")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were one."""
    monkeypatch.setattr(mx, "default_device", lambda: mx.gpu)


class Paces:
    """Seconds that a step takes, by whether it is compiled, the number of rows and whether they are long."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[bool, int, bool], float] = {}

    def of(self, rows: int, short: tuple[float, float], long: tuple[float, float] = (9, 9)) -> None:
        """Plain and compiled."""
        for compiled in (False, True):
            self.seconds |= {(compiled, rows, False): short[compiled], (compiled, rows, True): long[compiled]}


@pytest.fixture
def paces(monkeypatch: pytest.MonkeyPatch) -> Paces:
    made_up, run = Paces(), trial._run

    def timed(step: Any, caches: Any, lengths: list[int]) -> Any:
        _, logits = run(step, caches, lengths)
        return made_up.seconds[isinstance(step, CompiledStep), len(lengths), lengths[0] > 100], logits

    monkeypatch.setattr(trial, "_run", timed)
    return made_up


def outcome(loaded: Any, model: Any = None, *, batchable: bool = True) -> Compiles:
    going = trial.trial(model or loaded.model, loaded.new_caches, batchable=batchable)
    while True:
        try:
            next(going)
        except StopIteration as end:
            return end.value


def test_nothing_is_compiled_on_a_cpu(tiny: Tiny):
    assert outcome(tiny("qwen3")) == Compiles()


@pytest.mark.parametrize("arch", ["qwen3", "gemma3_text", "lfm2"])
def test_what_pays_is_compiled(tiny: Tiny, gpu: None, paces: Paces, arch: str):
    paces.of(1, (0.004, 0.003), (0.005, 0.004))
    paces.of(2, (0.004, 0.00395))
    assert outcome(tiny(arch)) == Compiles(alone=ANY_LENGTH)
    paces.of(1, (0.004, 0.004))
    paces.of(2, (0.004, 0.002), (0.008, 0.003))
    assert outcome(tiny(arch)) == Compiles(together=ANY_LENGTH)
    assert outcome(tiny(arch), batchable=False) == Compiles()


def test_what_pays_for_short_rows_alone_is_compiled_for_them(tiny: Tiny, gpu: None, paces: Paces):
    paces.of(1, (0.004, 0.002), (0.005, 0.004))
    assert outcome(tiny("qwen3"), batchable=False).alone == pytest.approx(4000, abs=10)
    paces.of(1, (0.004, 0.002), (0.005, 0.007))
    assert outcome(tiny("qwen3"), batchable=False).alone == pytest.approx(1000, abs=10)


def test_a_model_that_says_something_else_when_compiled(
    tiny: Tiny, gpu: None, paces: Paces, caplog: pytest.LogCaptureFixture
):
    paces.of(1, (0.004, 0.001), (0.004, 0.001))
    loaded = tiny("qwen3")
    calls = iter(range(1000))

    def model(inputs: mx.array, cache: Any = None) -> mx.array:
        """What it says depends on how often it was called: a trace holds on to the first time."""
        logits: mx.array = loaded.model(inputs, cache=cache)
        return mx.roll(logits, next(calls), -1)

    assert outcome(loaded, model, batchable=False) == Compiles()
    assert "logits differ" in caplog.text


def test_a_model_that_can_not_be_compiled(tiny: Tiny, gpu: None, paces: Paces):
    paces.of(1, (0.004, 0.001), (0.004, 0.001))
    loaded = tiny("qwen3")

    def model(inputs: mx.array, cache: Any = None) -> mx.array:
        assert isinstance(cache[0].offset, int)
        logits: mx.array = loaded.model(inputs, cache=cache)
        return logits

    assert outcome(loaded, model, batchable=False) == Compiles()


def test_the_engine_tries_when_it_comes_to_rest_and_goes_on_with_what_pays(tiny: Tiny, gpu: None, paces: Paces):
    paces.of(1, (0.004, 0.003), (0.005, 0.004))
    paces.of(2, (0.004, 0.004))
    loaded = tiny("qwen3")
    driver = Driver(loaded)
    ids = prompt(random.Random(1), 20)
    first = driver.tokens(ids, max_tokens=12)
    driver.run()
    assert driver.engine._compiled.compiles == Compiles()
    driver.turn(20)
    assert driver.engine._trial is None
    assert driver.engine._compiled.compiles == Compiles(alone=ANY_LENGTH)
    second = driver.tokens(ids[1:], max_tokens=12)
    driver.run()
    assert [shape.rows for shapes in driver.engine._compiled._traced for shape in shapes] == [1]
    check(loaded, driver.answers()[first, 0], ids, 12)
    check(loaded, driver.answers()[second, 0], ids[1:], 12)


def test_nothing_is_tried_out_where_memory_is_short(tiny: Tiny, gpu: None, paces: Paces):
    driver = Driver(tiny("qwen3"))
    driver.engine._admission.limit = 1
    driver.turn()
    assert driver.engine._trial is None and driver.engine._compiled.compiles == Compiles()
