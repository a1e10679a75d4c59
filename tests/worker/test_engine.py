"""The engine, without processes: whatever comes when, every row says what it would have said alone."""

from __future__ import annotations

import dataclasses
import functools
import random
import re
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.generate import stream_generate
from mlx_lm.models.cache import ChunkedKVCache, QuantizedKVCache
from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlx_server_nano.protocol import Failed
from mlx_server_nano.types import Constraint, FinishReason, Sampling
from mlx_server_nano.worker import prefiller, slots
from mlx_server_nano.worker.batch import Batch
from mlx_server_nano.worker.detokenizer import make_detokenizer
from mlx_server_nano.worker.drafts import Drafts
from mlx_server_nano.worker.group import Group
from mlx_server_nano.worker.loader import LoadedModel
from mlx_server_nano.worker.logprobs import LogprobReader
from tests.worker import harness
from tests.worker.conftest import Tiny
from tests.worker.harness import Answer, Driver

ARCHITECTURES = ["qwen2", "qwen3", "qwen3_moe", "llama", "mistral", "gemma3_text", "qwen3_next", "lfm2", "mamba2"]
WINDOW = 32  # gemma3_text's here


def oracle(loaded: LoadedModel, ids: list[int], limit: int) -> list[int]:
    """The tokens that mlx-lm's own loop makes of this prompt, the end-of-sequence token included."""
    wrapper = TokenizerWrapper(loaded.tokenizer, eos_token_ids=loaded.eos_ids)
    # In single precision, as here: the log-probabilities of a half precision model would hold ties.
    single = [lambda tokens, logits: logits.astype(mx.float32)]
    return [s.token for s in stream_generate(loaded.model, wrapper, ids, max_tokens=limit, logits_processors=single)]


def text_of(loaded: LoadedModel, tokens: list[int]) -> str:
    detokenizer = make_detokenizer(loaded.tokenizer, loaded.vocabulary, continues_text=True)
    shown = [token for token in tokens if token not in loaded.eos_ids]
    return "".join(detokenizer.add(token) for token in shown) + detokenizer.flush()


def logits_after(loaded: LoadedModel, ids: list[int]) -> np.ndarray:
    """The bare model's logits `[tokens, vocabulary]`, from one pass without caches."""
    return np.array(loaded.model(mx.array([ids]))[0].astype(mx.float32))


def check(loaded: LoadedModel, answer: Answer, ids: list[int], limit: int, *, slack: float = 1e-3) -> None:
    """The answer is what mlx-lm's own loop makes of this prompt: each token is the likeliest after those before it. One
    pass over them all tells, in a tenth of the loop's time.

    slack: by how many standard deviations of the logits a token may miss the likeliest, as widths are rounded differently."""
    output = answer.output
    logits = logits_after(loaded, ids + output[:-1])[len(ids) - 1 :]
    shortfall = logits.max(axis=-1) - logits[np.arange(len(output)), output]
    assert shortfall.max() <= slack * logits.std()
    ends = [token in loaded.eos_ids for token in output]
    assert not any(ends[:-1])
    assert ends[-1] or len(output) == limit
    assert answer.text == text_of(loaded, output)
    assert answer.tokens == len(output)
    assert answer.finish is (FinishReason.STOP if ends[-1] else FinishReason.LENGTH)


def prompt(rng: random.Random, length: int) -> list[int]:
    return [rng.randrange(5, 3000) for _ in range(length)]


class Watched:
    """A model that notes the shapes of its inputs, and fails when it is told to."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.shapes: list[tuple[int, ...]] = []
        self.fail: Callable[[mx.array], bool] = lambda inputs: False

    def __call__(self, inputs: mx.array, cache: Any = None) -> mx.array:
        self.shapes.append(tuple(inputs.shape))
        if self.fail(inputs):
            raise RuntimeError("out of luck")
        result: mx.array = self._model(inputs, cache=cache)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def watched(loaded: LoadedModel) -> tuple[LoadedModel, Watched]:
    model = Watched(loaded.model)
    return dataclasses.replace(loaded, model=model), model


# 32 positions of padding at most.
MANY_GROUPS: dict[str, Any] = {"kv_bytes_per_token": 8 << 20}


def noted_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many groups share each forward pass."""
    counts: list[int] = []
    forward = Batch.forward

    def count(self: Batch, groups: list[Group], drafts: Drafts | None = None) -> list[mx.array]:
        counts.append(len(groups))
        return forward(self, groups, drafts)

    monkeypatch.setattr(Batch, "forward", count)
    return counts


def crowd(loaded: LoadedModel, seed: int, *, requests: int = 9, longest: int = 150, **options: Any) -> Driver:
    """Requests of very different length come at random moments, a fifth of them is cancelled at another; the rest must
    say what mlx-lm says."""
    rng = random.Random(seed)
    driver = Driver(loaded, **{"prefill_chunk": 64, "busy_prefill_chunk": 32, **options})
    waiting: dict[int, tuple[list[int], int]] = {}
    cancelled = set()
    pending: list[int] = []
    shared = prompt(rng, 60)
    for _ in range(requests):
        length = rng.choice([1, 2, 5, 31, 32, 33, 40, 90, longest])
        ids = prompt(rng, length)
        if rng.random() < 0.3:
            ids = shared[: rng.randint(1, 60)] + ids[: rng.randint(1, 20)]
        limit = rng.choice([1, 2, 9, 24])
        request_id = driver.tokens(ids, max_tokens=limit)
        waiting[request_id] = ids, limit
        if rng.random() < 0.2:
            pending.append(request_id)
        driver.turn(rng.choice([0, 0, 1, 3, 10]))
        if pending and rng.random() < 0.5:
            cancelled.add(pending[0])
            driver.cancel(pending.pop(0))
    for request_id in pending:
        cancelled.add(request_id)
        driver.cancel(request_id)
    driver.run()
    answers = driver.answers()
    for request_id, (ids, limit) in waiting.items():
        if request_id not in cancelled:
            check(loaded, answers[request_id, 0], ids, limit)
    assert not driver.failures()
    return driver


# The property of the issue.


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_greedy_output_is_mlx_lms_in_any_crowd(tiny: Tiny, arch: str):
    crowd(tiny(arch), seed=0)


@pytest.mark.parametrize("arch", ["qwen3", "gemma3_text", "lfm2"])
def test_greedy_output_is_mlx_lms_while_slots_grow(tiny: Tiny, monkeypatch, arch: str):
    monkeypatch.setattr(slots, "GROWTH", 4)
    crowd(tiny(arch), seed=1)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_greedy_output_is_mlx_lms_alone(tiny: Tiny, arch: str):
    rng = random.Random(3)
    loaded = tiny(arch)
    for length, limit in ((1, 12), (2, 1), (70, 12)):
        ids = prompt(rng, length)
        driver = Driver(loaded, prefill_chunk=16)
        request_id = driver.tokens(ids, max_tokens=limit)
        driver.run()
        check(loaded, driver.answers()[request_id, 0], ids, limit)
        assert driver.outputs[request_id, 0] == oracle(loaded, ids, limit)


@pytest.mark.parametrize("joins", [True, False])
@pytest.mark.parametrize("arch", ["qwen3", "gemma3_text", "qwen3_next"])
def test_several_groups(tiny: Tiny, monkeypatch, arch: str, joins: bool):
    """A token's keys and values made to look huge, so groups are many; they share a pass where the model lets them."""
    loaded = tiny(arch)
    assert loaded.joins
    counts = noted_passes(monkeypatch)
    crowd(dataclasses.replace(loaded, **MANY_GROUPS, joins=joins), seed=5, requests=7)
    assert (max(counts) > 1) == joins


@pytest.mark.parametrize("arch", ["llama", "gemma3_text", "lfm2"])
def test_models_that_end_by_themselves(tiny: Tiny, arch: str):
    """Every 15th token ends a sequence, so rows leave at any step."""
    loaded = tiny(arch, generation_config={"eos_token_id": list(range(0, 3280, 15))})
    driver = crowd(loaded, seed=6, requests=12)
    finishes = [answer.finish for answer in driver.answers().values()]
    assert finishes.count(FinishReason.STOP) > 1 and finishes.count(FinishReason.LENGTH) > 1


def test_rows_that_grow_past_their_room(tiny: Tiny, monkeypatch):
    """More tokens than slots are first made for, before and past the window's end, at different lengths."""
    monkeypatch.setattr(slots, "GROWTH", 4)
    loaded = tiny("gemma3_text", sliding_window=48)
    rng = random.Random(8)
    requests = {}
    driver = Driver(loaded)
    for length in (3, 21):
        ids = prompt(rng, length)
        requests[driver.tokens(ids, max_tokens=60)] = ids
    driver.run()
    for request_id, ids in requests.items():
        check(loaded, driver.answers()[request_id, 0], ids, 60)


@pytest.mark.parametrize(("arch", "bits"), [("qwen3", 4), ("gemma3_text", None)])
def test_half_precision_and_quantized_models(tiny: Tiny, arch: str, bits: int | None):
    """Rows of a batch are rounded differently from a lone one, so tokens may differ where two are about as likely."""
    loaded = tiny(arch, dtype="bfloat16", bits=bits)
    rng = random.Random(9)
    alone = prompt(rng, 40)
    driver = Driver(loaded)
    request_id = driver.tokens(alone, max_tokens=30)
    driver.run()
    assert driver.outputs[request_id, 0] == oracle(loaded, alone, 30)

    driver = Driver(loaded)
    requests = {}
    for length in (3, 40, 41, 90):
        ids = prompt(rng, length)
        requests[driver.tokens(ids, max_tokens=20)] = ids
        driver.turn(4)
    driver.run()
    for request_id, ids in requests.items():
        check(loaded, driver.answers()[request_id, 0], ids, 20, slack=0.25)


# Choices, stop strings, seeds, penalties.


@pytest.mark.parametrize("arch", ["qwen3", "gemma3_text", "qwen3_next", "mamba2"])
@pytest.mark.parametrize("length", [1, 45])
def test_choices_share_one_prefill(tiny: Tiny, arch: str, length: int):
    loaded, model = watched(tiny(arch))
    ids = prompt(random.Random(4), length)
    driver = Driver(loaded, prefix_cache_bytes=0)
    request_id = driver.tokens(ids, max_tokens=12, n=3)
    other = driver.tokens(ids[: length // 2 + 1], max_tokens=20)
    driver.run()
    answers = driver.answers()
    for choice in range(3):
        check(tiny(arch), answers[request_id, choice], ids, 12)
    check(tiny(arch), answers[other, 0], ids[: length // 2 + 1], 20)
    prefilled = sum(count for rows, count in model.shapes if count > 1)
    assert prefilled == max(0, length - 1) + max(0, length // 2)


def test_greedy_text_up_to_a_stop_string(tiny: Tiny):
    loaded = tiny("qwen3")
    ids = prompt(random.Random(1), 20)
    full = text_of(loaded, oracle(loaded, ids, 24))
    for start, size in ((3, 5), (len(full) // 2, 9)):
        stop = full[start : start + size]
        driver = Driver(loaded)
        request_id = driver.tokens(ids, max_tokens=24, stop=(stop,))
        other = driver.tokens(ids[:7], max_tokens=24)
        driver.run()
        answer = driver.answers()[request_id, 0]
        assert answer.text == full[: full.index(stop)]
        assert (answer.finish, answer.stop) == (FinishReason.STOP, stop)
        check(loaded, driver.answers()[other, 0], ids[:7], 24)


def test_a_seed_gives_the_same_text_alone_and_in_any_crowd(tiny: Tiny):
    loaded = tiny("qwen3")
    rng = random.Random(2)
    sampling = Sampling(temperature=1.2, top_p=0.95, seed=42)
    ids = prompt(rng, 25)

    def ask(driver: Driver) -> int:
        return driver.tokens(ids, sampling=sampling, max_tokens=30, n=2)

    alone = Driver(loaded)
    expected = ask(alone)
    alone.run()
    texts = [alone.answers()[expected, choice].text for choice in (0, 1)]
    assert texts[0] != texts[1]

    driver = Driver(loaded)
    others = [driver.tokens(prompt(rng, 50), max_tokens=25, sampling=Sampling(temperature=1)) for _ in range(2)]
    driver.turn(5)
    first = ask(driver)
    driver.turn(7)
    others.append(driver.tokens(prompt(rng, 9), max_tokens=9, sampling=Sampling(temperature=0.9, top_k=5, seed=42)))
    second = ask(driver)
    driver.run()
    answers = driver.answers()
    for request_id in (first, second):
        assert [answers[request_id, choice].text for choice in (0, 1)] == texts


def test_without_a_seed_texts_differ(tiny: Tiny):
    driver = Driver(tiny("qwen3"))
    a, b = (driver.tokens([5, 6, 7], sampling=Sampling(temperature=1), max_tokens=30) for _ in range(2))
    driver.run()
    assert driver.answers()[a, 0].text != driver.answers()[b, 0].text


def test_penalties_are_those_of_a_plain_loop_while_rows_come_and_go(tiny: Tiny):
    """A frequency penalty large enough that a token counted twice, or too late, changes the choice."""
    loaded = tiny("llama")
    rng = random.Random(12)
    bias = dict.fromkeys(rng.sample(range(5, 3000), 6), 8.0)
    sampling = Sampling(
        temperature=0, repetition_penalty=1.2, presence_penalty=0.7, frequency_penalty=1.5, logit_bias=bias
    )
    driver = Driver(loaded, prefill_chunk=32, busy_prefill_chunk=16)
    requests = {}
    for length in (1, 10, 60):
        ids = prompt(rng, length)
        requests[driver.tokens(ids, sampling=sampling, max_tokens=25)] = ids
        driver.tokens(prompt(rng, 6), max_tokens=rng.choice([2, 5]))
        driver.turn(4)
    driver.run()
    for request_id, ids in requests.items():
        assert driver.outputs[request_id, 0] == plain_penalized(loaded, ids, sampling, 25)
        assert len(set(driver.outputs[request_id, 0])) < 25, "no token came twice, so nothing was tested"


def plain_penalized(loaded: LoadedModel, ids: list[int], sampling: Sampling, limit: int) -> list[int]:
    output: list[int] = []
    for _ in range(limit):
        logits = logits_after(loaded, ids + output)[-1].astype(np.float64)
        for token in {*ids, *output}:
            factor = sampling.repetition_penalty or 1
            logits[token] = logits[token] / factor if logits[token] > 0 else logits[token] * factor
        for token in set(output):
            logits[token] -= (sampling.presence_penalty or 0) + (sampling.frequency_penalty or 0) * output.count(token)
        for token, bias in sampling.logit_bias.items():
            logits[token] += bias
        output.append(int(logits.argmax()))
    return output


def test_rows_with_a_grammar_keep_to_it_and_leave_the_others_alone(tiny: Tiny):
    loaded = tiny("qwen3")
    rng = random.Random(21)
    driver = Driver(loaded, busy_prefill_chunk=16)
    free = {}
    bound = []
    grammar = Constraint(grammar='start: ("yes" | "no" | "maybe so"){3}')
    for length in (30, 1, 50):
        ids = prompt(rng, length)
        free[driver.tokens(ids, max_tokens=24)] = ids
        driver.turn(2)
        shaped = Sampling(temperature=1, seed=length, frequency_penalty=0.5)
        bound.append(driver.tokens(ids[:20], constraint=grammar, sampling=shaped, max_tokens=40, n=2))
        driver.turn(rng.randint(0, 4))
    driver.run()
    answers = driver.answers()
    for request_id, ids in free.items():
        check(loaded, answers[request_id, 0], ids, 24)
    texts = [answers[request_id, choice].text for request_id in bound for choice in (0, 1)]
    assert all(re.fullmatch("(yes|no|maybe so){3}", text) for text in texts)
    assert len(set(texts)) > 1


# Scheduling.


def test_chunks_stay_within_the_budget_and_running_rows_go_on(tiny: Tiny):
    loaded, model = watched(tiny("qwen3"))
    driver = Driver(loaded, prefill_chunk=64, busy_prefill_chunk=16)
    rng = random.Random(5)
    first = driver.tokens(prompt(rng, 150), max_tokens=100)
    driver.turn()
    assert model.shapes == [(1, 64)]
    driver.turn(4)
    model.shapes.clear()
    second = driver.tokens(prompt(rng, 200), max_tokens=3)
    before = driver.answers()[first, 0].tokens
    driver.turn(6)
    assert model.shapes == [(1, 1), (1, 16)] * 6, "a decode step, then a chunk, in each turn"
    assert driver.answers()[first, 0].tokens == before + 6
    driver.run()
    assert {answer.finish for answer in driver.answers().values()} == {FinishReason.LENGTH}
    assert driver.started()[second].prompt_tokens == 200


def test_no_more_rows_than_allowed(tiny: Tiny):
    loaded, model = watched(tiny("qwen3"))
    driver = Driver(loaded, max_rows=3)
    rng = random.Random(6)
    requests = [driver.tokens(prompt(rng, 4), max_tokens=rng.randint(2, 9), n=rng.choice([1, 2])) for _ in range(8)]
    driver.run()
    assert max(rows for rows, _ in model.shapes) == 3
    assert {request_id for request_id, _ in driver.answers()} == set(requests)


def test_rows_of_one_token_prompts_come_to_decode_together(tiny: Tiny):
    loaded, model = watched(tiny("qwen3"))
    driver = Driver(loaded)
    for token in range(10, 16):
        driver.tokens([token], max_tokens=20)
    driver.run()
    assert (6, 1) in model.shapes
    assert len(model.shapes) < 40


def test_a_full_context_ends_the_row(tiny: Tiny):
    loaded = tiny("qwen3", max_position_embeddings=64)
    ids = prompt(random.Random(7), 63)
    driver = Driver(loaded)
    last, few, some = driver.tokens(ids), driver.tokens(ids[:60]), driver.tokens(ids[:60], max_tokens=3)
    driver.run()
    answers = driver.answers()
    check(loaded, answers[last, 0], ids, 1)
    check(loaded, answers[few, 0], ids[:60], 4)
    check(loaded, answers[some, 0], ids[:60], 3)


# Caches that can't batch.


@pytest.mark.parametrize(
    "make_cache",
    [lambda: QuantizedKVCache(group_size=32, bits=8), lambda: ChunkedKVCache(1 << 20)],
    ids=["q8", "chunked"],
)
def test_rows_whose_caches_can_not_batch_run_alone_but_all_go_on(tiny_folder, monkeypatch, make_cache):
    folder = tiny_folder("llama", head_dim=32)
    loaded = harness.load(folder)
    monkeypatch.setattr(
        type(loaded.model), "make_cache", lambda self: [make_cache() for _ in self.layers], raising=False
    )
    loaded = harness.load(folder)
    assert not loaded.info.batchable
    loaded, model = watched(loaded)
    rng = random.Random(10)
    driver = Driver(loaded, busy_prefill_chunk=16)
    requests = {}
    for length in (1, 30, 70):
        ids = prompt(rng, length)
        requests[driver.tokens(ids, max_tokens=15, n=2)] = ids
        driver.turn(3)
    driver.run()
    assert {rows for rows, _ in model.shapes} == {1}
    for request_id, ids in requests.items():
        expected = oracle(loaded, ids, 15)
        for choice in (0, 1):
            assert driver.outputs[request_id, choice] == expected


# Log-probabilities.


@pytest.mark.parametrize("arch", ["qwen3", "gemma3_text"])
def test_log_probabilities_are_the_bare_models(tiny: Tiny, arch: str):
    """Of the model's own distribution, whatever shapes the sampling; in a batch where others ask for none."""
    loaded = tiny(arch)
    rng = random.Random(13)
    driver = Driver(loaded)
    ids = prompt(rng, 40)
    shaped = Sampling(temperature=1.5, top_k=50, frequency_penalty=1.0, logit_bias={7: 5.0}, seed=1)
    driver.tokens(prompt(rng, 10), max_tokens=30)
    asked = {
        driver.tokens(ids, max_tokens=12, logprobs=3): 3,
        driver.tokens(ids, max_tokens=12, logprobs=0, sampling=shaped): 0,
        driver.tokens(ids, max_tokens=12, logprobs=20, sampling=shaped): 20,
    }
    driver.run()
    for request_id, count in asked.items():
        output = driver.outputs[request_id, 0]
        logits = logits_after(loaded, ids + output)[len(ids) - 1 : -1].astype(np.float64)
        expected = logits - np.log(np.exp(logits - logits.max()).sum(axis=-1, keepdims=True)) - logits.max()
        found = driver.answers()[request_id, 0].logprobs
        assert [value.token for value in found] == [loaded.vocabulary.bytes_of(token) for token in output]
        np.testing.assert_allclose([v.logprob for v in found], expected[np.arange(12), output], atol=1e-3)
        for step, value in zip(expected, found, strict=True):
            best = np.argsort(-step)[:count]
            np.testing.assert_allclose([a.logprob for a in value.top], step[best], atol=1e-3)
            assert [a.token for a in value.top] == [loaded.vocabulary.bytes_of(int(token)) for token in best]


def test_log_probability_bytes_are_the_text(tiny: Tiny):
    driver = Driver(tiny("qwen3"))
    requests = [
        driver.tokens([i, 9], max_tokens=40, logprobs=0, sampling=Sampling(temperature=1, seed=i)) for i in range(6)
    ]
    driver.run()
    for request_id in requests:
        answer = driver.answers()[request_id, 0]
        assert b"".join(value.token for value in answer.logprobs).decode(errors="replace") == answer.text


# Cancelling and failing.


def test_a_cancelled_row_is_gone_before_the_next_step(tiny: Tiny):
    loaded, model = watched(tiny("qwen3"))
    driver = Driver(loaded)
    rng = random.Random(14)
    requests = [driver.tokens(prompt(rng, 8), max_tokens=50, n=n) for n in (1, 2, 1)]
    driver.turn(6)
    assert model.shapes[-1] == (4, 1)
    driver.cancel(requests[1])
    events = len(driver.recorder.events)
    driver.turn()
    assert model.shapes[-1] == (2, 1)
    driver.run()
    assert not [e for e in driver.recorder.events[events:] if e.request_id == requests[1]]
    assert driver.answers()[requests[2], 0].tokens == 50


@pytest.mark.parametrize("turns", range(6))
def test_cancelling_at_any_moment_leaves_nothing_behind(tiny: Tiny, turns: int):
    """While it waits, in its prefill, about to join, decoding."""
    loaded, model = watched(tiny("qwen3"))
    driver = Driver(loaded, prefill_chunk=16, busy_prefill_chunk=16, max_rows=1)
    ids = prompt(random.Random(15), 40)
    first, second = driver.tokens(ids, max_tokens=50), driver.tokens(ids[:20], max_tokens=5)
    driver.turn(turns)
    driver.cancel(first)
    driver.cancel(first)
    driver.cancel(12345)
    driver.run()
    check(loaded, driver.answers()[second, 0], ids[:20], 5)
    assert driver.engine.idle
    shapes = len(model.shapes)
    driver.turn(3)
    assert len(model.shapes) == shapes


def test_cancelling_all_makes_the_engine_idle(tiny: Tiny):
    driver = Driver(tiny("qwen3"))
    requests = [driver.tokens([5, 6, 7], max_tokens=1000) for _ in range(3)]
    driver.turn(5)
    for request_id in requests:
        driver.cancel(request_id)
    driver.turn(2)
    assert driver.engine.idle


def test_a_failing_forward_pass_fails_its_rows_only(tiny: Tiny):
    """Two groups with a pass each, one of which fails; newcomers and the other group go on."""
    loaded, model = watched(dataclasses.replace(tiny("qwen3"), **MANY_GROUPS, joins=False))
    driver = Driver(loaded)
    rng = random.Random(16)
    short = [driver.tokens(prompt(rng, 10), max_tokens=30) for _ in range(2)]
    ids = prompt(rng, 300)
    long = driver.tokens(ids, max_tokens=30)
    driver.turn(8)
    model.fail = lambda inputs: inputs.shape == (2, 1)
    driver.turn()
    model.fail = lambda inputs: False
    again = prompt(rng, 10)
    later = driver.tokens(again, max_tokens=8)
    driver.run()
    assert set(driver.failures()) == set(short)
    assert "out of luck" in driver.failures()[short[0]].message
    assert driver.failures()[short[0]].kind == "GenerationError"
    check(tiny("qwen3"), driver.answers()[long, 0], ids, 30)
    check(tiny("qwen3"), driver.answers()[later, 0], again, 8)


def test_a_failing_forward_pass_of_one_choice_fails_the_request(tiny: Tiny):
    loaded, model = watched(dataclasses.replace(tiny("qwen3"), info=unbatchable(tiny("qwen3"))))
    driver = Driver(loaded)
    request_id = driver.tokens([5, 6, 7], max_tokens=30, n=2)
    driver.turn(4)
    passes = iter(range(100))
    model.fail = lambda inputs: next(passes) == 1
    driver.run()
    assert set(driver.failures()) == {request_id}
    assert all(answer.finish is None for answer in driver.answers().values())


def unbatchable(loaded: LoadedModel) -> Any:
    import msgspec

    return msgspec.structs.replace(loaded.info, batchable=False)


@pytest.mark.parametrize("when", ["launch", "read"])
def test_a_pass_that_fails_with_the_last_tokens_of_its_rows(tiny: Tiny, monkeypatch, when: str):
    """The group may be gone by the time that the failure shows."""
    loaded = tiny("qwen3")
    driver = Driver(loaded)
    request_id = driver.tokens([5, 6, 7], max_tokens=3, logprobs=1)
    driver.turn(4 if when == "read" else 3)
    name = "of" if when == "launch" else "read"

    def fail(*args: Any) -> Any:
        raise RuntimeError("lost")

    with monkeypatch.context() as patch:
        patch.setattr(LogprobReader, name, fail)
        driver.turn()
        driver.turn()
    driver.run()
    assert "lost" in driver.failures()[request_id].message
    later = driver.tokens([5, 6, 7], max_tokens=3)
    driver.run()
    check(loaded, driver.answers()[later, 0], [5, 6, 7], 3)


def test_a_failing_prefill_fails_its_request_only(tiny: Tiny):
    loaded, model = watched(tiny("qwen3"))
    driver = Driver(loaded, busy_prefill_chunk=16)
    ids = prompt(random.Random(17), 10)
    running = driver.tokens(ids, max_tokens=30)
    driver.turn(3)
    broken = driver.tokens(prompt(random.Random(18), 100), max_tokens=5)
    driver.turn(2)
    model.fail = lambda inputs: inputs.shape[1] > 1
    driver.turn()
    model.fail = lambda inputs: False
    driver.run()
    assert set(driver.failures()) == {broken}
    check(tiny("qwen3"), driver.answers()[running, 0], ids, 30)


def is_wide(width: int, inputs: mx.array) -> bool:
    return inputs.shape[1] == width


def test_nothing_cached_is_trusted_after_a_failure(tiny: Tiny):
    """Arrays of a failed pass may be among them, still to be computed: they would fail every later request."""
    loaded, model = watched(tiny("qwen3"))
    driver = Driver(loaded)
    ids = prompt(random.Random(20), 40)
    for width in (1, 4):
        first = driver.tokens(ids, max_tokens=2)
        driver.run()
        model.fail = functools.partial(is_wide, width)
        failed = driver.tokens([5, 6, 7, 8, 9], max_tokens=2)
        driver.run()
        model.fail = lambda inputs: False
        second = driver.tokens(ids, max_tokens=2)
        driver.run()
        third = driver.tokens(ids, max_tokens=2)
        driver.run()
        assert set(driver.failures()) == {failed}
        driver.recorder.events = [event for event in driver.recorder.events if not isinstance(event, Failed)]
        assert driver.started()[second].cached_tokens == 0
        assert driver.started()[third].cached_tokens == 39
        assert driver.answers()[first, 0] == driver.answers()[second, 0] == driver.answers()[third, 0]
        ids = ids[::-1]


class Fragile:
    """A detokenizer that breaks at its third token."""

    pending = False

    def __init__(self) -> None:
        self.count = 0

    def add(self, token_id: int) -> str:
        self.count += 1
        if self.count == 3:
            raise ValueError("no such token")
        return "x"

    def flush(self) -> str:
        return ""


@pytest.mark.parametrize("where", ["making", "decoding"])
def test_a_row_whose_host_side_work_fails_is_failed_alone(tiny: Tiny, monkeypatch, where: str):
    loaded = tiny("qwen3")
    calls = iter(range(100))

    def fragile(*args: Any, **options: Any) -> Any:
        if next(calls) != 1:
            return make_detokenizer(*args, **options)
        if where == "making":
            raise ValueError("no such token")
        return Fragile()

    monkeypatch.setattr(prefiller, "make_detokenizer", fragile)
    driver = Driver(loaded)
    prompts = [prompt(random.Random(i), 9 + i) for i in range(3)]
    requests = [driver.tokens(ids, max_tokens=12) for ids in prompts]
    driver.run()
    assert set(driver.failures()) == {requests[1]}
    assert "no such token" in driver.failures()[requests[1]].message
    for i in (0, 2):
        check(loaded, driver.answers()[requests[i], 0], prompts[i], 12)


# Memory.


def test_nothing_is_held_once_all_is_done(tiny: Tiny):
    """But for what the prefix cache keeps, which is switched off here."""
    loaded = tiny("qwen3")
    driver = Driver(loaded, prefix_cache_bytes=0)
    rng = random.Random(19)
    mx.clear_cache()
    before = mx.get_active_memory()
    for length in (300, 200, 3):
        driver.tokens(prompt(rng, length), max_tokens=20)
    driver.run()
    assert mx.get_active_memory() - before < 100_000
    assert mx.get_cache_memory() == 0, "at rest, free buffers are the system's"
    assert driver.recorder.memory_bytes == mx.get_active_memory(), "and the gateway knows"
    assert (driver.recorder.kv_bytes, driver.recorder.prefix_bytes) == (0, 0)


@pytest.mark.parametrize("fails", [False, True])
def test_short_prompts_that_wait_together_share_a_pass(tiny: Tiny, fails: bool, caplog: pytest.LogCaptureFixture):
    loaded, model = watched(tiny("qwen3"))
    model.fail = lambda inputs: fails and inputs.shape[0] > 1 and inputs.shape[1] > 1
    driver = Driver(loaded)
    rng = random.Random(5)
    prompts = [prompt(rng, length) for length in (201, 190, 170, 60, 50, 1)]
    requests = [driver.tokens(ids, max_tokens=5) for ids in prompts]
    driver.turn()
    alone = [(1, 200), (1, 189), (1, 169), (1, 59), (1, 49)]
    assert model.shapes == [(3, 200), (2, 59), *(alone if fails else [])]
    driver.run()
    for request, ids in zip(requests, prompts, strict=True):
        check(tiny("qwen3"), driver.answers()[request, 0], ids, 5)
    assert fails == ("passes of their own" in caplog.text)


def test_what_a_template_begins_all_prompts_with_is_no_reason_for_a_pass_of_its_own(tiny: Tiny):
    loaded, model = watched(tiny("qwen3"))
    driver = Driver(loaded)
    rng = random.Random(7)
    template = prompt(rng, 5)
    driver.tokens([*template, *prompt(rng, 60)], max_tokens=3)
    driver.run()
    model.shapes.clear()
    for _ in range(2):
        driver.tokens([*template, *prompt(rng, 60)], max_tokens=1)
    driver.turn()
    assert model.shapes == [(2, 64)]


@pytest.mark.parametrize("arch", ["qwen3", "qwen3_moe"])
def test_prompts_are_padded_to_few_widths_where_each_new_one_costs(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, arch: str
):
    monkeypatch.setattr(prefiller, "plans_shapes", lambda: True)
    loaded, model = watched(tiny(arch))
    driver = Driver(loaded)
    rng = random.Random(6)
    first = prompt(rng, 230)
    for ids in (first, [*first, *prompt(rng, 20)], prompt(rng, 600)):
        model.shapes.clear()
        request = driver.tokens(ids, max_tokens=12)
        driver.turn()
        assert model.shapes == [(1, {230: 256, 250: 64, 600: 768}[len(ids)])]
        driver.run()
        check(tiny(arch), driver.answers()[request, 0], ids, 12)
    model.shapes.clear()
    for length in (300, 120, 700):
        driver.tokens(prompt(rng, length), max_tokens=1)
    driver.turn()
    assert model.shapes == [(2, 320), (1, 768)]
    crowd(loaded, seed=8)


def test_a_prompt_beside_a_running_row_is_not_waited_for(tiny: Tiny, monkeypatch: pytest.MonkeyPatch):
    """But for the first of its size, whose memory is measured."""
    driver = Driver(tiny("qwen3"))
    driver.tokens(prompt(random.Random(1), 5), max_tokens=200)
    driver.turn(3)
    waited: list[None] = []
    real = mx.eval

    def wait(*arrays: Any) -> None:
        waited.append(None)
        real(*arrays)

    monkeypatch.setattr(mx, "eval", wait)
    for seed in range(4):
        driver.tokens(prompt(random.Random(seed), 60), max_tokens=100)
        driver.turn(3)
    assert len(waited) == 1


@pytest.mark.parametrize(("spare", "given_back"), [(0, True), (1 << 40, False)])
def test_free_buffers_are_kept_for_the_next_prompt_unless_they_are_many(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, spare: int, given_back: bool
):
    """Other rows decode, so the engine is not at rest."""
    monkeypatch.setattr(prefiller, "_MOST_SPARE", spare)
    monkeypatch.setattr(prefiller, "_SPARE_SHARE", 1 << 40)
    cleared: list[None] = []
    driver = Driver(tiny("qwen3"))
    driver.tokens(prompt(random.Random(1), 5), max_tokens=200)
    driver.turn(3)
    monkeypatch.setattr(mx, "clear_cache", lambda: cleared.append(None))
    for seed in range(3):
        driver.tokens(prompt(random.Random(seed), 60), max_tokens=100)
        driver.turn(3)
    assert len(cleared) == (3 if given_back else 0)


def test_the_gateway_knows_what_caches_take(tiny: Tiny):
    driver = Driver(tiny("qwen3"), prefix_cache_bytes=1 << 30)
    driver.tokens(prompt(random.Random(20), 100), max_tokens=60)
    driver.turn(40)
    assert driver.recorder.kv_bytes > 0
    driver.run()
    assert driver.recorder.kv_bytes == 0 < driver.recorder.prefix_bytes
