"""Sampling against an exact reference in numpy.

Rows draw from an even grid of uniform numbers instead of a random generator: how often a token comes out is then its
probability, up to one grid step, and no test depends on luck."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_server_nano.worker.sampler import Sampler, draw
from mlx_server_nano.worker.sequence import Draws, RowSampling, Sequence

GRID = 4096
VOCAB = 100


class FakeDetokenizer:
    pending = False

    def add(self, token_id: int) -> str:
        return "x"

    def flush(self) -> str:
        return ""


class Row(Sequence):
    """A sequence that draws the given numbers; `u` None: its own."""

    def __init__(self, u: float | None = None, prompt: list[int] | None = None, **sampling: Any) -> None:
        values: dict[str, Any] = {
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "logit_bias": {},
            "seed": 0,
            **sampling,
        }
        super().__init__(
            request_id=1,
            choice=0,
            prompt=prompt or [0],
            sampling=RowSampling(**values),
            max_tokens=1000,
            eos_ids=frozenset(),
            detokenizer=FakeDetokenizer(),
            stops=(),
            logprobs=None,
        )
        self.u = u

    def draw(self, ahead: int = 0) -> float:
        return super().draw(ahead) if self.u is None else self.u


def grid(size: int = GRID) -> list[float]:
    return [(i + 0.5) / size for i in range(size)]


def sample(rows: list[Row], logits: np.ndarray) -> np.ndarray:
    """One step of these rows; logits `[vocabulary]` for all or `[rows, vocabulary]`."""
    everyone = np.broadcast_to(logits, (len(rows), logits.shape[-1]))
    last = mx.array([row.output[-1] if row.output else row.prompt[-1] for row in rows], dtype=mx.uint32)
    return np.array(Sampler(rows, logits.shape[-1])(mx.array(everyone), last))


def probabilities(logits: np.ndarray, **sampling: Any) -> np.ndarray:
    """What the sampler promises, in double precision."""
    scaled = logits.astype(np.float64) / sampling.get("temperature", 1.0)
    p = np.exp(scaled - scaled.max())
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    ordered = p[order]
    top_k = sampling.get("top_k", 0)
    if top_k:
        ordered[top_k:] = 0
        ordered /= ordered.sum()
    before = np.cumsum(ordered) - ordered
    ordered[1:][before[1:] >= sampling.get("top_p", 1.0)] = 0
    ordered[ordered < sampling.get("min_p", 0.0) * ordered[0]] = 0
    result = np.zeros_like(p)
    result[order] = ordered / ordered.sum()
    return result


def random_logits(seed: int, size: int = VOCAB, spread: float = 2.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=size) * spread).astype(np.float32)


SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.3},
    {"temperature": 1.7},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": VOCAB * 2},
    {"top_p": 0.0},
    {"top_p": 0.5},
    {"top_p": 0.95},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"top_k": 20, "top_p": 0.8, "temperature": 0.7},
    {"top_k": 30, "min_p": 0.05},
    {"top_p": 0.9, "min_p": 0.2, "temperature": 1.3},
    {"top_k": 12, "top_p": 0.9, "min_p": 0.05, "temperature": 2.0},
]


def name(sampling: dict[str, Any]) -> str:
    return ",".join(f"{key}={value}" for key, value in sampling.items()) or "plain"


@pytest.mark.parametrize("sampling", SETTINGS, ids=name)
def test_tokens_come_as_often_as_they_should(sampling):
    logits = random_logits(seed=1)
    tokens = sample([Row(u, **sampling) for u in grid()], logits)
    expected = probabilities(logits, **sampling)
    seen = np.bincount(tokens, minlength=VOCAB)
    assert not seen[expected == 0].any(), "a token that was filtered out"
    # Each run of uniform numbers that means one token is off by one grid step at each end at most.
    np.testing.assert_allclose(seen / GRID, expected, atol=2.01 / GRID)


def test_top_p_keeps_no_more_than_it_needs():
    tokens = sample([Row(u, top_p=0.5) for u in grid(64)], np.zeros(4, dtype=np.float32))
    assert len(set(tokens.tolist())) == 2, "two of four equal tokens are half of the mass"


def test_rows_of_one_batch_do_not_see_each_others_settings():
    logits = np.stack([random_logits(seed=i) for i in range(len(SETTINGS) + 1)])
    uniforms = np.random.default_rng(5).random(64)
    for u in uniforms:
        rows = [Row(u, **sampling) for sampling in SETTINGS] + [Row(u, temperature=0.0)]
        together = sample(rows, logits)
        alone = [int(sample([row], logits[i : i + 1])[0]) for i, row in enumerate(rows)]
        assert together.tolist() == alone


def test_greedy_takes_the_likeliest_whatever_the_other_settings():
    logits = random_logits(seed=3)
    rows = [Row(0.99, temperature=0.0), Row(0.99, temperature=0.0, top_k=5, top_p=0.5, min_p=0.1)]
    assert sample(rows, logits).tolist() == [logits.argmax()] * 2


def test_a_tiny_temperature_is_greedy():
    logits = random_logits(seed=3)
    temperatures = (1e-2, 1e-8, 1e-30, 1e-44, 5e-324)
    assert sample([Row(0.99, temperature=t) for t in temperatures], logits).tolist() == [logits.argmax()] * 5


@pytest.mark.parametrize("sampling", [{}, {"top_p": 0.9999}, {"top_k": 140_000}], ids=name)
def test_the_tail_of_a_large_vocabulary_is_drawn_right(sampling):
    """Half of the mass on one token, the rest spread over 150,000: each of them is as likely as 28 steps of a single
    precision number between 0.5 and 1."""
    size = 150_000
    rng = np.random.default_rng(11)
    logits = (rng.normal(size=size) * 0.1).astype(np.float32)
    logits[size // 3] = math.log(np.exp(logits.astype(np.float64)).sum())
    p = probabilities(logits, **sampling)
    # Where top-k or top-p sort, tokens lie on the unit interval by falling probability, else by id.
    order = np.argsort(-logits, kind="stable") if sampling else np.arange(size)
    ends = np.cumsum(p[order])
    place = np.empty(size, dtype=np.int64)
    place[order] = np.arange(size)
    uniforms = [*rng.random(30), 0.0, 1 - 2.0**-24, 0.999999]
    tokens = sample([Row(float(u), **sampling) for u in uniforms], logits)
    assert (p[tokens] > 0).all()
    for u, at in zip(uniforms, place[tokens], strict=True):
        assert (ends[at - 1] if at else 0.0) - 2e-6 <= u <= ends[at] + 2e-6
    assert len(set(tokens.tolist())) > 12


def test_draw_never_takes_an_entry_without_weight():
    rng = np.random.default_rng(2)
    for n in (1, 2, 3, 10, 17, 1000):
        weights = rng.random((256, n)).astype(np.float32)
        weights[rng.random((256, n)) < 0.9] = 0
        weights[np.arange(256), rng.integers(0, n, 256)] += 0.5
        uniforms = np.concatenate([rng.random(254), [0.0, 1 - 2.0**-24]]).astype(np.float32)
        chosen = np.array(draw(mx.array(weights), mx.array(uniforms[:, None])))
        assert (weights[np.arange(256), chosen] > 0).all()


def penalized(logits: np.ndarray, prompt: list[int], output: list[int], **sampling: Any) -> np.ndarray:
    result = logits.astype(np.float64)
    for token in set(prompt) | set(output):
        factor = sampling.get("repetition_penalty", 1.0)
        result[token] = result[token] / factor if result[token] > 0 else result[token] * factor
    for token in set(output):
        result[token] -= sampling.get("presence_penalty", 0.0)
        result[token] -= sampling.get("frequency_penalty", 0.0) * output.count(token)
    for token, bias in sampling.get("logit_bias", {}).items():
        result[token] += bias
    return result


PENALTIES: list[dict[str, Any]] = [
    {"repetition_penalty": 1.3},
    {"presence_penalty": 0.8},
    {"frequency_penalty": 0.4},
    {"frequency_penalty": -0.4, "presence_penalty": 0.2},
    {"repetition_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": 0.25, "logit_bias": {3: 1.5, 9: -100.0}},
    {"logit_bias": {5: 100.0}},
    {},
]


@pytest.mark.parametrize(("count", "unread"), [(0, 0), (4, 1), (4, 0)])
def test_penalties_count_prompt_and_output(count, unread):
    """The host reads a token one step after the device has it, or before the next step where a grammar waits for it.
    A sampler made in mid-stream must count each once."""
    rng = np.random.default_rng(7)
    vocab = 12
    rows = [Row(prompt=[1, 2, 2, 11], temperature=0.0, **sampling) for sampling in PENALTIES]
    outputs: list[list[int]] = [[int(t) for t in rng.integers(0, vocab, count)] for _ in rows]
    for row, output in zip(rows, outputs, strict=True):
        row.launched = len(output)
        row.output = output[: count - unread]
    sampler = Sampler(rows, vocab)
    last = [output[-1] if output else row.prompt[-1] for row, output in zip(rows, outputs, strict=True)]
    for _ in range(12):
        logits = (rng.normal(size=(len(rows), vocab)) * 0.7).astype(np.float32)
        tokens = np.array(sampler(mx.array(logits), mx.array(last, dtype=mx.uint32))).tolist()
        for i, row in enumerate(rows):
            expected = penalized(logits[i], row.prompt, outputs[i], **PENALTIES[i])
            assert tokens[i] == expected.argmax()
            outputs[i].append(tokens[i])
            row.launched += 1
        last = tokens


def test_penalties_and_bias_shape_the_distribution_before_temperature():
    logits = random_logits(seed=4)
    sampling: dict[str, Any] = {"repetition_penalty": 1.5, "logit_bias": {7: 3.0, 8: -100.0}}
    rows = [Row(u, prompt=[1, 2, 3], temperature=0.8, **sampling) for u in grid()]
    seen = np.bincount(sample(rows, logits), minlength=VOCAB)
    expected = probabilities(penalized(logits, [1, 2, 3], [], **sampling), temperature=0.8)
    np.testing.assert_allclose(seen / GRID, expected, atol=2.01 / GRID)
    assert seen[8] == 0


def test_verifying_draws_what_step_by_step_is_drawn():
    """Rows of all kinds; drafts that come true to any length, the rest of them wrong."""
    rng = np.random.default_rng(8)
    vocab, width = 40, 5
    rows = {
        kind: [Row(prompt=[1, 2, 2], seed=i, **s) for i, s in enumerate([*SETTINGS, *PENALTIES, {"temperature": 0.0}])]
        for kind in ("steps", "wide")
    }
    count = len(rows["steps"])
    samplers = {kind: Sampler(some, vocab) for kind, some in rows.items()}
    last = np.full(count, 2)
    for _ in range(4):
        logits = (rng.normal(size=(count, width, vocab)) * 2).astype(np.float32)
        bits = rng.integers(1 << 20, 1 << 31, size=(count, width, 2)).astype(np.int32)
        allowed = rng.random() < 0.5
        drawn = np.zeros((count, width), dtype=np.int64)
        inputs = np.zeros((count, width), dtype=np.int64)
        inputs[:, 0] = last
        for at in range(width):
            mask = mx.array(bits[:, at]) if allowed else None
            drawn[:, at] = np.array(
                samplers["steps"](mx.array(logits[:, at]), mx.array(inputs[:, at], dtype=mx.uint32), mask)
            )
            for row in rows["steps"]:
                row.launched += 1
            if at + 1 < width:
                inputs[:, at + 1] = drawn[:, at]
        right = rng.integers(0, width, count)
        for i, length in enumerate(right):
            inputs[i, length + 1 :] = (inputs[i, length + 1 :] + 1) % vocab
        found = np.array(
            samplers["wide"].verify(
                mx.array(logits), mx.array(inputs, dtype=mx.uint32), mx.array(bits) if allowed else None
            )
        )
        for i, length in enumerate(right):
            assert found[i, : length + 1].tolist() == drawn[i, : length + 1].tolist()
        # All rows go on from where the least of them ended.
        kept = int(right.min()) + 1
        samplers["wide"].keep([drawn[i, : kept - 1].tolist() for i in range(count)])
        for i, row in enumerate(rows["wide"]):
            row.output += drawn[i, :kept].tolist()
            row.keep_read()
            rows["steps"][i].output = list(row.output)
            rows["steps"][i].keep_read()
        samplers["steps"] = Sampler(rows["steps"], vocab)
        last = drawn[:, kept - 1]


def test_half_precision_logits_are_sampled_in_single_precision():
    logits = mx.array(random_logits(seed=6))[None].astype(mx.bfloat16)
    exact = np.array(logits.astype(mx.float32))[0]
    rows = [Row(u) for u in grid()]
    tokens = Sampler(rows, VOCAB)(mx.broadcast_to(logits, (GRID, VOCAB)), mx.zeros(GRID, dtype=mx.uint32))
    seen = np.bincount(np.array(tokens), minlength=VOCAB)
    np.testing.assert_allclose(seen / GRID, probabilities(exact), atol=2.01 / GRID)


def numbers(seed: int | None, choice: int, count: int = 1000) -> list[float]:
    draws = Draws(seed, choice)
    return [draws.at(index) for index in range(count)]


def test_draws_depend_on_the_seed_and_the_choice_alone():
    assert numbers(5, 0) == numbers(5, 0)
    assert numbers(5, 0) != numbers(5, 1)
    assert numbers(5, 0) != numbers(6, 0)
    assert numbers(None, 0, 3) != numbers(None, 0, 3)
    for seed in (0, -1, 2**63, -(2**63), 2**64 - 1):
        assert all(0 <= u < 1 for u in numbers(seed, 3, 10))
    assert numbers(-1, 0, 3) != numbers(0, 0, 3)


def test_a_number_stays_what_it_is():
    draws = Draws(5, 0)
    assert [draws.at(index) for index in (7, 0, 7, 3)] == [numbers(5, 0)[index] for index in (7, 0, 7, 3)]


def test_draws_are_uniform_and_independent():
    many = np.array([numbers(seed, choice, 50) for seed in range(200) for choice in range(4)])
    for values in (many[:, 0], many[:, 1], many.ravel()):
        seen = np.bincount((values * 20).astype(int), minlength=20)
        chi_square = ((seen - len(values) / 20) ** 2 / (len(values) / 20)).sum()
        assert chi_square < 50  # 19 degrees of freedom; the seeds are fixed
    assert abs(np.corrcoef(many[::4, 0], many[1::4, 0])[0, 1]) < 0.2
    assert abs(np.corrcoef(many[:, 0], many[:, 1])[0, 1]) < 0.1


def test_a_draw_stays_below_one_in_single_precision(monkeypatch):
    class AlmostOne:
        def random(self) -> float:
            return 1 - 2.0**-53

    draws = Draws(0, 0)
    monkeypatch.setattr(draws, "_generator", AlmostOne())
    assert np.float32(draws.at(0)) < 1


def test_draw_survives_running_sums_that_do_not_rise_evenly(monkeypatch):
    """A parallel scan adds in another order for each entry, so an entry without weight may end a rounding error above
    the one before it."""
    rng = np.random.default_rng(9)
    cumsum = mx.cumsum

    def uneven(array: mx.array, axis: int) -> mx.array:
        noise = mx.array(rng.uniform(-1e-4, 1e-4, array.shape).astype(np.float32))
        return cumsum(array, axis=axis) * (1 + noise)

    monkeypatch.setattr(mx, "cumsum", uneven)
    weights = rng.random((512, 400)).astype(np.float32)
    weights[rng.random((512, 400)) < 0.95] = 0
    weights[:, 300:] = 0
    uniforms = np.concatenate([rng.random(256), np.full(256, 1 - 2.0**-24)]).astype(np.float32)
    chosen = np.array(draw(mx.array(weights), mx.array(uniforms[:, None])))
    assert (weights[np.arange(512), chosen] > 0).all()
