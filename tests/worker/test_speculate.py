"""Speculation: whatever is drafted, every row says what it would have said without."""

from __future__ import annotations

import dataclasses
import random
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_server_nano.types import Constraint, GenerationRequest, Sampling, TextPrompt, ThinkingBudget
from mlx_server_nano.worker import sequence as sequence_module
from mlx_server_nano.worker import slots
from mlx_server_nano.worker.costs import Costs
from mlx_server_nano.worker.drafts import Verifying
from mlx_server_nano.worker.loader import LoadedModel
from mlx_server_nano.worker.ngram import PromptIndex
from mlx_server_nano.worker.speculate import MOST_ROWS
from tests.worker.conftest import Tiny
from tests.worker.harness import Answer, Driver
from tests.worker.test_engine import check, crowd, oracle, prompt, text_of, watched

SNAPSHOTS = ["gemma3_text", "qwen3_next", "lfm2", "mamba2"]
OTHERS = ["qwen2", "qwen3_moe", "llama", "mistral"]


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wide passes that cost next to nothing, so that all that can be drafted is."""
    monkeypatch.setattr(Costs, "ratio", lambda self, shape: 0.01)


Guess = Callable[[list[int], list[int], int], list[int]]
Script = Callable[[Guess], None]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, free: None) -> Script:
    """Drafts from a function of prompt, output and how many are wanted, instead of look-up."""

    def use(guess: Guess) -> None:
        class Scripted:
            confidence = 0.9
            ready = True

            def __init__(self, index: PromptIndex, output: list[int]) -> None:
                self._prompt, self._output = index.prompt, output

            def catch_up(self) -> None:
                pass

            def draft(self, most: int) -> list[int]:
                return guess(self._prompt, self._output, most)

        monkeypatch.setattr(sequence_module, "Lookup", Scripted)

    return use


class Known:
    """What mlx-lm says after each prompt, and drafts made of it: each token is right with this probability."""

    def __init__(self, loaded: LoadedModel, right: float, seed: int = 0) -> None:
        self._loaded = loaded
        self._right = right
        self._rng = random.Random(seed)
        self._answers: dict[tuple[int, ...], list[int]] = {}

    def __call__(self, ids: list[int], output: list[int], most: int) -> list[int]:
        answer = self._answers.setdefault(tuple(ids), [])
        while len(answer) < len(output) + most and not (answer and answer[-1] in self._loaded.eos_ids):
            answer += oracle(self._loaded, ids + answer, 10)
        following = answer[len(output) : len(output) + self._rng.randint(0, most)]
        return [token if self._rng.random() < self._right else self._rng.randrange(5, 3000) for token in following]


@pytest.mark.parametrize(
    ("arch", "right"), [("qwen3", 1.0), ("qwen3", 0.0), ("qwen3", 0.8), *((arch, 0.8) for arch in OTHERS)]
)
def test_greedy_output_is_mlx_lms_in_any_crowd(tiny: Tiny, scripted: Script, arch: str, right: float):
    """Rows with and without drafts, right and wrong ones, that come and go and are cancelled."""
    loaded = tiny(arch)
    scripted(Known(loaded, right))
    driver = crowd(loaded, seed=int(10 * right), speculation=True)
    assert driver.recorder.drafted > 20
    if right == 1:
        assert driver.recorder.accepted == driver.recorder.drafted
    if right == 0:
        assert driver.recorder.accepted <= 2


@pytest.mark.parametrize("arch", SNAPSHOTS)
def test_rows_alone_that_can_not_be_cut_back(tiny: Tiny, scripted: Script, arch: str):
    """Before, across and past the end of a sliding window; another row joins and leaves, and a conversation goes on."""
    loaded = tiny(arch)
    scripted(Known(loaded, 0.8))
    driver = Driver(loaded, speculation=True)
    for length in (2, 20, 45):
        ids = prompt(random.Random(length), length)
        request_id = driver.tokens(ids, max_tokens=38)
        driver.turn(4)
        other = prompt(random.Random(length + 1), 9)
        beside = driver.tokens(other, max_tokens=5)
        driver.run()
        check(loaded, driver.answers()[request_id, 0], ids, 38)
        check(loaded, driver.answers()[beside, 0], other, 5)
        longer = [*ids, *driver.outputs[request_id, 0], 9, 8, 7]
        request_id = driver.tokens(longer, max_tokens=20)
        driver.run()
        assert driver.started()[request_id].cached_tokens >= length
        check(loaded, driver.answers()[request_id, 0], longer, 20)
    assert driver.recorder.drafted - 10 > driver.recorder.accepted > 20


@pytest.mark.parametrize("arch", ["gemma3_text", "qwen3_next"])
@pytest.mark.parametrize("turns", range(2, 6))
def test_cancelling_rows_that_can_not_be_cut_back(tiny: Tiny, scripted: Script, arch: str, turns: int):
    loaded = tiny(arch)
    scripted(Known(loaded, 0.5, seed=turns))
    driver = Driver(loaded, speculation=True)
    ids = prompt(random.Random(1), 30)
    request_id = driver.tokens(ids, max_tokens=38)
    driver.turn(turns)
    driver.cancel(request_id)
    driver.turn()
    again = driver.tokens(ids, max_tokens=30)
    driver.run()
    check(loaded, driver.answers()[again, 0], ids, 30)


def test_greedy_output_is_mlx_lms_while_slots_grow_and_in_several_groups(tiny: Tiny, scripted: Script, monkeypatch):
    monkeypatch.setattr(slots, "GROWTH", 4)
    loaded = dataclasses.replace(tiny("qwen3"), kv_bytes_per_token=8 << 20)
    scripted(Known(loaded, 0.8))
    assert crowd(loaded, seed=1, speculation=True).recorder.accepted


def test_models_that_end_by_themselves(tiny: Tiny, scripted: Script):
    """Every 15th token ends a sequence: drafts go on behind it, and what was accepted there is dropped."""
    loaded = tiny("llama", generation_config={"eos_token_id": list(range(0, 3280, 15))})
    plain = tiny("llama")
    scripted(Known(plain, 1.0))
    crowd(loaded, seed=6, requests=12, speculation=True)


def test_lookup_finds_what_is_copied(tiny: Tiny, free: None):
    """Random models soon repeat themselves when they are given no choice but a few tokens."""
    loaded, model = watched(tiny("qwen3"))
    ids = prompt(random.Random(1), 30)
    sampling = Sampling(temperature=0, logit_bias=dict.fromkeys(range(40, 44), 1000.0))
    texts = []
    for speculation in (False, True):
        driver = Driver(loaded, speculation=speculation)
        model.shapes.clear()
        request_id = driver.tokens(ids, sampling=sampling, max_tokens=200)
        driver.run()
        texts.append(driver.answers()[request_id, 0])
    assert (texts[0].text, texts[0].tokens) == (texts[1].text, texts[1].tokens)
    assert driver.recorder.accepted > 100
    assert len(model.shapes) < 100, "passes for 200 tokens"


class Recorded:
    """Drafts from what rows said without speculation, every fifth token wrong."""

    def __init__(self, outputs: dict[tuple[int, int], list[int]]) -> None:
        self._outputs = list(outputs.values())
        self._rng = random.Random(0)

    def __call__(self, ids: list[int], output: list[int], most: int) -> list[int]:
        known = next((o for o in self._outputs if len(o) > len(output) and o[: len(output)] == output), [])
        following = known[len(output) : len(output) + most]
        return [token if self._rng.random() < 0.8 else self._rng.randrange(5, 3000) for token in following]


@pytest.fixture
def compare(scripted: Script) -> Callable[[LoadedModel, Callable[[Driver], None]], dict[tuple[int, int], Answer]]:
    """Asks the same of an engine without speculation and of one that drafts what the first one said, or nearly: the
    answers must be the same, log-probabilities but for rounding."""

    def run(loaded: LoadedModel, ask: Callable[[Driver], None]) -> dict[tuple[int, int], Answer]:
        plain = Driver(loaded)
        ask(plain)
        plain.run()
        scripted(Recorded(plain.outputs))
        driver = Driver(loaded, speculation=True)
        ask(driver)
        driver.run()
        assert driver.outputs == plain.outputs
        assert driver.recorder.accepted > 5
        answers = driver.answers()
        for key, answer in plain.answers().items():
            found = answers[key]
            assert (found.text, found.tokens, found.finish, found.stop) == (
                answer.text,
                answer.tokens,
                answer.finish,
                answer.stop,
            )
            assert [value.token for value in found.logprobs] == [value.token for value in answer.logprobs]
            for ours, theirs in zip(found.logprobs, answer.logprobs, strict=True):
                assert [a.token for a in ours.top] == [a.token for a in theirs.top]
                np.testing.assert_allclose(
                    [ours.logprob, *(a.logprob for a in ours.top)],
                    [theirs.logprob, *(a.logprob for a in theirs.top)],
                    atol=1e-3,
                )
        return answers

    return run


Compare = Callable[[LoadedModel, Callable[[Driver], None]], dict[tuple[int, int], Answer]]

SAMPLINGS = [
    Sampling(temperature=1.2, top_p=0.95, seed=42),
    Sampling(temperature=1, seed=43),
    Sampling(temperature=0.8, top_k=20, min_p=0.05, seed=44),
    Sampling(temperature=0),
]


def test_seeds_give_the_text_that_they_give_without(tiny: Tiny, compare: Compare):
    rng = random.Random(2)
    prompts = [prompt(rng, length) for length in (25, 3, 60, 25)]

    def ask(driver: Driver) -> None:
        for ids, sampling in zip(prompts, SAMPLINGS, strict=True):
            driver.tokens(ids, sampling=sampling, max_tokens=30, n=2)
            driver.turn(3)

    compare(tiny("qwen3"), ask)


def test_penalties_count_every_token_once(tiny: Tiny, compare: Compare):
    rng = random.Random(12)
    bias = dict.fromkeys(rng.sample(range(5, 3000), 6), 8.0)
    shaped: dict[str, Any] = {
        "repetition_penalty": 1.2,
        "presence_penalty": 0.7,
        "frequency_penalty": 1.5,
        "logit_bias": bias,
    }

    def ask(driver: Driver) -> None:
        driver.tokens(prompt(random.Random(0), 20), sampling=Sampling(temperature=0, **shaped), max_tokens=40)
        driver.tokens(prompt(random.Random(1), 50), sampling=Sampling(temperature=1, seed=1, **shaped), max_tokens=40)
        driver.turn(5)
        driver.tokens(prompt(random.Random(2), 9), max_tokens=7)

    compare(tiny("llama"), ask)


def test_log_probabilities(tiny: Tiny, compare: Compare):
    def ask(driver: Driver) -> None:
        for at, sampling in enumerate(SAMPLINGS):
            driver.tokens(prompt(random.Random(at), 30), sampling=sampling, max_tokens=20, logprobs=at)
        driver.tokens(prompt(random.Random(9), 30), max_tokens=20)

    answers = compare(tiny("qwen3"), ask)
    assert sum(len(answer.logprobs) for answer in answers.values()) > 60


def test_stop_strings_in_the_middle_of_what_was_accepted(tiny: Tiny, compare: Compare):
    loaded = tiny("qwen3")
    prompts = [prompt(random.Random(at), 20) for at in range(4)]
    stops = []
    for at, ids in enumerate(prompts):
        full = text_of(loaded, oracle(loaded, ids, 24))
        stops.append(full[len(full) // 2 + at : len(full) // 2 + at + 3])

    def ask(driver: Driver) -> None:
        for ids, stop in zip(prompts, stops, strict=True):
            driver.tokens(ids, max_tokens=24, stop=(stop,))

    answers = compare(loaded, ask)
    assert [answer.stop for answer in answers.values()] == stops


GRAMMARS = [
    'start: ("yes" | "no" | "maybe so"){9}',
    r"start: /[a-z]{3,9}( [a-z]{3,9}){4}/",
    '%json {"type":"object","properties":{"name":{"type":"string"},"sizes":{"type":"array","items":{"type":"integer"},'
    '"minItems":3,"maxItems":5}},"required":["name","sizes"],"additionalProperties":false}',
]


def test_grammars(tiny: Tiny, compare: Compare):
    def ask(driver: Driver) -> None:
        for at, grammar in enumerate(GRAMMARS):
            source = grammar if grammar.startswith("start") else f"start: {grammar}"
            driver.tokens(
                prompt(random.Random(at), 30),
                constraint=Constraint(grammar=source),
                sampling=Sampling(temperature=1, seed=at, frequency_penalty=0.5),
                max_tokens=60,
                n=2,
            )
        driver.tokens(prompt(random.Random(9), 30), max_tokens=30)

    answers = compare(tiny("qwen3"), ask)
    assert all(re.fullmatch("(yes|no|maybe so){9}", answers[1, choice].text) for choice in (0, 1))


def test_limits_of_reasoning(tiny: Tiny, compare: Compare):
    """Reasoning that is cut off in the middle of what could be drafted."""
    loaded = tiny("qwen3")

    def ask(driver: Driver) -> None:
        for tokens in (0, 1, 5, 12):
            request = GenerationRequest(
                prompt=TextPrompt(text=f"Why {tokens}?<think>"),
                thinking=ThinkingBudget(tokens=tokens, open="<think>", close="</think>"),
                sampling=Sampling(temperature=1, seed=tokens),
                max_tokens=30,
            )
            driver.submit(request)

    answers = compare(loaded, ask)
    assert all("</think>" in answer.text for answer in answers.values())


def test_the_distribution_stays_what_it_is(tiny: Tiny, scripted: Script):
    """Chi-square over the first two tokens of 480 answers, whose drafts are always the same, right or wrong as it comes."""
    loaded = tiny("qwen3")
    ids = prompt(random.Random(3), 12)

    def distribution(tokens: list[int]) -> dict[int, float]:
        logits = np.array(loaded.model(mx.array([tokens]))[0, -1].astype(mx.float32)).astype(np.float64) / 3
        best = np.argsort(-logits)[:3]
        p = np.exp(logits[best] - logits[best].max())
        return dict(zip(best.tolist(), (p / p.sum()).tolist(), strict=True))

    first = distribution(ids)
    expected = {(a, b): p * q for a, p in first.items() for b, q in distribution([*ids, a]).items()}
    likeliest, _ = max(expected, key=lambda pair: expected[pair])
    follower = max(distribution([*ids, likeliest]))
    scripted(lambda ids, output, most: [likeliest, follower, 7][len(output) :][:most])
    driver = Driver(loaded, speculation=True)
    for seed in range(480):
        driver.tokens(ids, sampling=Sampling(temperature=3, top_k=3, seed=seed), max_tokens=3)
        if seed % MOST_ROWS == MOST_ROWS - 1:
            driver.run()
    counts = Counter((output[0], output[1]) for output in driver.outputs.values())
    assert set(counts) <= set(expected)
    chi_square = sum((counts[pair] - 480 * p) ** 2 / (480 * p) for pair, p in expected.items())
    assert 100 < driver.recorder.accepted < driver.recorder.drafted - 100
    assert chi_square < 26.1, "eight degrees of freedom: one in a thousand is above"


def test_what_is_kept_of_a_row_is_what_it_said(tiny: Tiny, scripted: Script):
    """A conversation goes on from caches that wrong drafts were written to: lone rows' and those in slots."""
    loaded = tiny("qwen3")
    scripted(Known(loaded, 0.7))
    prompts = [prompt(random.Random(at), 20 + at) for at in range(3)]
    for rows in (prompts[:1], prompts[1:]):
        driver = Driver(loaded, speculation=True)
        asked = {driver.tokens(ids, max_tokens=30): ids for ids in rows}
        driver.run()
        for number, ids in asked.items():
            check(loaded, driver.answers()[number, 0], ids, 30)
            longer = [*ids, *driver.outputs[number, 0], 9, 8, 7]
            request_id = driver.tokens(longer, max_tokens=20)
            driver.run()
            assert driver.started()[request_id].cached_tokens >= len(ids) + 29
            check(loaded, driver.answers()[request_id, 0], longer, 20)


@pytest.mark.parametrize("turns", range(3, 9))
def test_cancelling_while_drafts_are_verified(tiny: Tiny, scripted: Script, turns: int):
    loaded = tiny("qwen3")
    scripted(Known(loaded, 0.8, seed=turns))
    driver = Driver(loaded, speculation=True)
    first, second = (prompt(random.Random(at), 12 + at) for at in range(2))
    cancelled, other = driver.tokens(first, max_tokens=38), driver.tokens(second, max_tokens=38)
    driver.turn(turns)
    driver.cancel(cancelled)
    driver.turn()
    again = driver.tokens(first, max_tokens=30)
    driver.run()
    check(loaded, driver.answers()[other, 0], second, 38)
    check(loaded, driver.answers()[again, 0], first, 30)
    assert driver.engine.idle


def test_a_pass_that_fails_while_it_verifies_fails_its_rows_only(tiny: Tiny, scripted: Script):
    plain = tiny("qwen3")
    loaded, model = watched(dataclasses.replace(plain, kv_bytes_per_token=8 << 20))
    scripted(Known(plain, 1.0))
    driver = Driver(loaded, speculation=True)
    short = [driver.tokens(prompt(random.Random(at), 10), max_tokens=30) for at in range(2)]
    ids = prompt(random.Random(3), 300)
    long = driver.tokens(ids, max_tokens=30)
    driver.turn(3)
    model.fail = lambda inputs: inputs.shape[0] == 2 and inputs.shape[1] > 1
    driver.turn(4)
    model.fail = lambda inputs: False
    driver.run()
    assert set(driver.failures()) == set(short)
    check(plain, driver.answers()[long, 0], ids, 30)


# When it is on.


def is_wide(shapes: list[tuple[int, ...]]) -> bool:
    return any(width > 1 for _, width in shapes)


def run_alone(driver: Driver, model: Any, ids: list[int]) -> list[tuple[int, ...]]:
    """The shapes of the passes behind the prefill."""
    driver.tokens(ids, max_tokens=40)
    driver.turn()
    model.shapes.clear()
    driver.run()
    return list(model.shapes)


@pytest.mark.parametrize("arch", SNAPSHOTS)
def test_what_can_not_be_cut_back_is_verified_alone(tiny: Tiny, scripted: Script, arch: str):
    loaded, model = watched(tiny(arch))
    assert loaded.verifies is Verifying.ALONE
    scripted(Known(tiny(arch), 1.0))
    ids = prompt(random.Random(1), 20)
    assert is_wide(run_alone(Driver(loaded, speculation=True), model, ids))
    driver = Driver(loaded, speculation=True)
    for at in range(2):
        driver.tokens(prompt(random.Random(at), 5), max_tokens=30)
    driver.turn()
    model.shapes.clear()
    driver.turn(12)
    assert (2, 1) in model.shapes and not is_wide([shape for shape in model.shapes if shape[0] == 2])


def test_it_is_off_where_wide_passes_cost_too_much(tiny: Tiny, scripted: Script, monkeypatch):
    loaded, model = watched(tiny("qwen3"))
    scripted(Known(tiny("qwen3"), 1.0))
    ids = prompt(random.Random(1), 20)
    monkeypatch.setattr(Costs, "ratio", lambda self, shape: 1 + shape.width)
    assert not is_wide(run_alone(Driver(loaded, speculation=True), model, ids))
    monkeypatch.setattr(Costs, "ratio", lambda self, shape: 1 + shape.width / 9)
    assert is_wide(run_alone(Driver(loaded, speculation=True), model, ids))


def test_it_is_off_where_guesses_do_not_come_true(tiny: Tiny, monkeypatch):
    """Look-up itself, with real costs but for the clock, over an answer that nothing in its prompt foretells."""
    monkeypatch.setattr(Costs, "ratio", lambda self, shape: 1.3)
    loaded, model = watched(tiny("qwen3"))
    assert not is_wide(run_alone(Driver(loaded, speculation=True), model, prompt(random.Random(1), 200)))


def test_it_is_off_for_many_rows_and_on_again_for_few(tiny: Tiny, scripted: Script):
    loaded, model = watched(tiny("qwen3"))
    scripted(Known(tiny("qwen3"), 1.0))
    driver = Driver(loaded, speculation=True)
    for at in range(MOST_ROWS + 1):
        driver.tokens(prompt(random.Random(at), 5), max_tokens=12 if at else 38)
    driver.run()
    prompts, *decoding = model.shapes
    assert prompts == (MOST_ROWS + 1, 4)
    many = [shape for shape in decoding if shape[0] > MOST_ROWS]
    assert many and not is_wide(many)
    assert is_wide([shape for shape in decoding if shape[0] == 1])


def test_it_is_off_when_it_is_switched_off(tiny: Tiny, scripted: Script):
    loaded, model = watched(tiny("qwen3"))
    scripted(Known(tiny("qwen3"), 1.0))
    assert not is_wide(run_alone(Driver(loaded, speculation=False), model, prompt(random.Random(1), 20)))


def test_steps_without_drafts_are_launched_before_the_last_one_is_read(tiny: Tiny, monkeypatch):
    """Nothing is lost where there is nothing to guess."""
    monkeypatch.setattr(Costs, "ratio", lambda self, shape: 1.3)
    aheads: list[bool] = []
    monkeypatch.setattr(Costs, "mark", lambda self, shape, *, ahead: aheads.append(ahead))
    driver = Driver(tiny("qwen3"), speculation=True)
    driver.tokens(prompt(random.Random(1), 200), max_tokens=40)
    driver.run()
    assert all(aheads)
