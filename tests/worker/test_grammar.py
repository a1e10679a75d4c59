from __future__ import annotations

import json

import numpy as np
import pytest

from mlx_server_nano.errors import InvalidRequestError
from mlx_server_nano.types import Constraint, Sampling
from mlx_server_nano.worker.drafts import Drafts
from mlx_server_nano.worker.grammar import MAX_GRAMMAR_BYTES, Masks
from tests.worker.harness import GREEDY, Driver

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer", "maximum": 99}, "b": {"enum": ["x", "y"]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
JSON = Constraint(grammar="start: %json " + json.dumps({**SCHEMA, "x-guidance": {"whitespace_flexible": False}}))


def test_rows_with_and_without_grammar_share_a_batch(tiny):
    driver = Driver(tiny())
    alone = driver.tokens([5, 6, 7], max_tokens=20)
    driver.run()
    free = driver.tokens([5, 6, 7], max_tokens=20)
    hot = Sampling(temperature=1.5, seed=3)
    held = [driver.tokens([5, 6, i], max_tokens=60, constraint=JSON, n=2, sampling=hot) for i in (20, 30)]
    driver.run()
    answers = driver.answers()
    assert answers[free, 0].text == answers[alone, 0].text
    for request in held:
        for choice in (0, 1):
            found = json.loads(answers[request, choice].text)
            assert found.keys() == {"a", "b"} and found["b"] in "xy" and isinstance(found["a"], int)


def test_the_grammar_within_reasoning_is_taken_by_the_prompts_end(tiny):
    compiler = tiny().grammars
    constraint = Constraint(grammar='start: "a"', in_reasoning='start: "b"', reasoning_open=("<think>",))
    tokens = {name: tiny().tokenizer.encode(name, add_special_tokens=False)[0] for name in "ab"}
    for tail, allowed in (("x <think>\n", "b"), ("<think> x", "a"), ("", "a")):
        compiler.compile(constraint, tail).advance(tokens[allowed])


def test_masks(tiny):
    loaded = tiny()
    masks = Masks(loaded.grammars.vocab_size)
    grammar = loaded.grammars.compile(Constraint(grammar='start: "a"'), "")
    bits = masks.fill([None, grammar, None], [None, None, 40])
    allowed = np.unpackbits(bits[:, 0].view(np.uint8), axis=1, bitorder="little")
    assert allowed[0, : loaded.grammars.vocab_size].all()
    assert {loaded.vocabulary.bytes_of(int(i)) for i in np.flatnonzero(allowed[1])} == {b"a"}
    assert np.flatnonzero(allowed[2]).tolist() == [40]


def test_masks_after_each_drafted_token(tiny):
    loaded = tiny()
    masks = Masks(loaded.grammars.vocab_size)
    grammar = loaded.grammars.compile(Constraint(grammar='start: "a" ("b" | "c") "d"'), "")
    a, b, c, d = (loaded.tokenizer.encode(name, add_special_tokens=False)[0] for name in "abcd")
    assert grammar.allowed([a, b, b]) == [a, b]
    assert grammar.allowed([b]) == []
    bits = masks.fill([grammar, None], [None, 40], Drafts([[a, b], []], 4))
    allowed = np.unpackbits(bits.view(np.uint8), axis=2, bitorder="little")
    # Other tokens may begin the same text, "ab" for one.
    for position, token in enumerate((a, b, d)):
        assert allowed[0, position, token]
        assert allowed[0, position].sum() < 5
    assert allowed[0, 1, c]
    assert np.flatnonzero(allowed[1, 0]).tolist() == [40]
    grammar.advance(a)
    assert grammar.allowed([c, d]) == [c, d], "the state has not moved"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("start: nothing", "unknown name"),
        ('start: %json {"type": "array", "uniqueItems": true}', "uniqueItems"),
        ("start: /" + "a" * MAX_GRAMMAR_BYTES + "/", "too large"),
    ],
)
def test_what_does_not_compile(tiny, source, reason):
    with pytest.raises(InvalidRequestError, match=reason) as caught:
        Driver(tiny()).tokens([5, 6], constraint=Constraint(grammar=source, param="response_format"), sampling=GREEDY)
    assert caught.value.param == "response_format"
    assert "\n" not in caught.value.message


def test_a_thinking_budget_closes_the_reasoning(tiny):
    from mlx_server_nano.types import ChatPrompt, GenerationRequest, ThinkingBudget

    driver = Driver(tiny())
    request = driver.submit(
        GenerationRequest(
            prompt=ChatPrompt(messages=({"role": "user", "content": "hi"},)),
            sampling=GREEDY,
            max_tokens=30,
            constraint=Constraint(grammar='start: <[' + str(driver.loaded.vocabulary.special["<think>"]) + ']> /(?s:.*)/ <['
                + str(driver.loaded.vocabulary.special["</think>"]) + ']> /\\n\\n/ "done"'),
            thinking=ThinkingBudget(tokens=3, open="<think>", close="</think>"),
        )
    )  # fmt: skip
    driver.run()
    answer = driver.answers()[request, 0]
    assert answer.text.startswith("<think>") and answer.text.endswith("done") and answer.tokens < 20
