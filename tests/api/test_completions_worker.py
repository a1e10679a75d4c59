"""Completions from a real worker with a tiny random model, judged by mlx-lm's bare model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import openai
import pytest
from mlx_lm.utils import load

from tests.api.conftest import Serving


@pytest.fixture(scope="module")
def bare(tiny_folder: Path) -> Any:
    return load(str(tiny_folder))


@pytest.fixture
def client(real_server: Serving) -> openai.OpenAI:
    return real_server.client(timeout=240)


def score(bare: Any, ids: list[int]) -> tuple[list[float], list[dict[int, float]]]:
    """For each token after the first: its log-probability, and the five likeliest."""
    logits = bare[0](mx.array([ids]))[0].astype(mx.float32)
    logprobs: Any = (logits - mx.logsumexp(logits, axis=-1, keepdims=True)).tolist()
    chosen = [row[token] for row, token in zip(logprobs, ids[1:], strict=False)]
    return chosen, [dict(sorted(enumerate(row), key=lambda entry: -entry[1])[:5]) for row in logprobs[:-1]]


@pytest.mark.parametrize("form", ["text", "tokens"])
def test_scores_of_a_prompt(client, bare, form):
    text = "The quick brown fox — naïve 🦊 jumps."
    ids = bare[1].encode(text)
    prompt: Any = text if form == "text" else ids
    for _ in range(2):  # the second time the prefix cache could serve it
        answer = client.completions.create(model="tiny", prompt=prompt, max_tokens=0, echo=True, logprobs=5)
        (choice,) = answer.choices
        assert (choice.text, choice.finish_reason) == (text, "length")
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(ids), 0)
        scores = choice.logprobs
        chosen, top = score(bare, ids)
        assert len(scores.tokens) == len(scores.text_offset) == len(scores.top_logprobs) == len(ids)
        assert scores.token_logprobs[0] is None and scores.top_logprobs[0] is None
        assert scores.token_logprobs[1:] == pytest.approx(chosen, abs=1e-4)
        for given, expected in zip(scores.top_logprobs[1:], top, strict=True):
            assert sorted(given.values(), reverse=True)[:5] == pytest.approx(list(expected.values()), abs=1e-4)
        for i, offset in enumerate(scores.text_offset):
            if not scores.tokens[i].startswith("bytes:"):
                assert text.startswith(scores.tokens[i], offset)


def test_scores_of_a_long_prompt_and_of_its_answer(client, bare):
    """Longer than a prefill's chunk, so that scores come from several."""
    ids = [(17 * i * i + 5 * i) % 3000 for i in range(2500)]
    answer = client.completions.create(
        model="tiny", prompt=ids, max_tokens=3, echo=True, logprobs=0, temperature=0, logit_bias={"3258": -100}
    )
    values = answer.choices[0].logprobs.token_logprobs
    assert values[1:2500] == pytest.approx(score(bare, ids)[0], abs=1e-3)
    assert len(values) == 2503


def test_a_list_of_prompts_gives_what_each_gives(client):
    prompts = ["abc", "xyz", "The quick brown"]
    together = client.completions.create(model="tiny", prompt=prompts, temperature=0, max_tokens=6)
    alone = [client.completions.create(model="tiny", prompt=p, temperature=0, max_tokens=6) for p in prompts]
    assert [choice.text for choice in together.choices] == [answer.choices[0].text for answer in alone]
    assert together.usage.total_tokens == sum(answer.usage.total_tokens for answer in alone)


def test_a_stream_says_the_same(client):
    options: dict[str, Any] = {
        "model": "tiny",
        "prompt": ["abc", "xyz"],
        "n": 2,
        "seed": 3,
        "temperature": 1,
        "logprobs": 2,
        "echo": True,
    }
    whole = client.completions.create(**options)
    texts = [""] * 4
    tokens: list[list[str]] = [[], [], [], []]
    for chunk in client.completions.create(**options, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            tokens[choice.index] += choice.logprobs.tokens
    assert texts == [choice.text for choice in whole.choices]
    assert tokens == [choice.logprobs.tokens for choice in whole.choices]


def test_the_best_of_several(client):
    options: dict[str, Any] = {
        "model": "tiny",
        "prompt": "abc",
        "seed": 5,
        "temperature": 1,
        "max_tokens": 4,
        "logprobs": 0,
    }
    all_five = client.completions.create(**options, n=5)

    def likelihood(choice: Any) -> float:
        values = choice.logprobs.token_logprobs
        return sum(values) / len(values) if values else float("-inf")

    best = client.completions.create(**options, best_of=5)
    assert best.choices[0].text == max(all_five.choices, key=likelihood).text
    assert best.usage.completion_tokens == all_five.usage.completion_tokens


def test_one_bad_prompt_fails_the_request_and_nothing_else(client):
    with pytest.raises(openai.BadRequestError, match="token ids") as caught:
        client.completions.create(model="tiny", prompt=[[1, 2], [999999]])
    assert caught.value.param == "prompt"
    assert client.completions.create(model="tiny", prompt=[1, 2], max_tokens=1).usage.completion_tokens == 1


def test_suffix(client):
    answer = client.completions.create(model="tiny", prompt="def f(", suffix="): pass", max_tokens=4)
    plain = client.completions.create(model="tiny", prompt="def f(): pass", max_tokens=4)
    assert answer.usage.prompt_tokens >= plain.usage.prompt_tokens + 3 - 1
