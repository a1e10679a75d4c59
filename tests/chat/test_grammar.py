"""Whatever a model samples under a grammar is a call with valid arguments: the grammars are run in llguidance itself."""

from __future__ import annotations

import json
import lzma
import random
from collections.abc import Iterator
from functools import cache

import jsonschema
import llguidance
import numpy as np
import pytest

from mlx_server_nano.chat.formats import FORMATS
from mlx_server_nano.chat.formats.base import Format, JsonArguments, JsonCall, Route
from mlx_server_nano.chat.grammar import answer_grammar, call_grammar, json_body
from mlx_server_nano.chat.machine import Machine
from mlx_server_nano.types import Tool
from tests.chat.golden import ASSETS, Answer, assemble, needs_assets, run

pytestmark = needs_assets

TOOLS = [
    Tool(
        name="get_weather",
        parameters={
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 99},
                "exact": {"type": "boolean"},
                "range": {"$ref": "#/$defs/range"},
                "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
            "$defs": {
                "range": {
                    "type": "object",
                    "properties": {"low": {"type": "integer", "minimum": 0, "maximum": 9}},
                    "required": ["low"],
                    "additionalProperties": False,
                }
            },
        },
    ),
    Tool(name="now"),
]
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
VALIDATORS = {tool.name: jsonschema.Draft202012Validator(tool.parameters or NOTHING) for tool in TOOLS}
# The real tokenizers' special tokens matter: markers are tokens there. All other formats run on text alone.
TOKENIZER_OF = {
    "hermes": "mini-dense-qwen3",
    "qwen-xml": "mini-dense-qwen3",
    "mistral": "mini-dense-devstral-v13",
    "mistral-v7": "mini-dense-devstral-v13",
    "llama-3": "mini-dense-llama-3.1",
    "gpt-oss": "gpt-oss",
    "gemma-4": "gemma-4-it",
}
WRITERS = sorted(name for name, form in FORMATS.items() if form.blocks or any(header.writes for header in form.headers))


@cache
def tokenizer(name: str) -> tuple[llguidance.LLTokenizer, dict[str, int]]:
    folder = ASSETS / "tokenizers" / name
    packed = folder / "tokenizer.json.xz"
    text = lzma.decompress(packed.read_bytes()) if packed.exists() else (folder / "tokenizer.json").read_bytes()
    added = {token["content"]: token["id"] for token in json.loads(text)["added_tokens"]}
    found = llguidance.LLTokenizer(text.decode())
    return found, {content: number for content, number in added.items() if found.is_special_token(number)}


class Sampler:
    """Walks a grammar at random. In free text it now and then tries how a format's markup goes on, as a model would."""

    def __init__(self, form: Format, grammar: str, seed: int) -> None:
        self._tokenizer, self.special = tokenizer(TOKENIZER_OF.get(form.name, "mini-dense-qwen3"))
        self._matcher = llguidance.LLMatcher(self._tokenizer, llguidance.LLMatcher.grammar_from_lark(grammar))
        assert not self._matcher.get_error(), (self._matcher.get_error(), grammar)
        self._random = random.Random(seed)
        self.hints = [self.tokens(text) for text in _markup(form)]
        self._closing = [self._tokenizer.greedy_tokenize(text) for text in ('"', "}", "]", ")")]

    def tokens(self, text: str) -> list[int]:
        """Special tokens as such, the text between them byte by byte or nearly."""
        for name, number in self.special.items():
            if name in text:
                before, _, after = text.partition(name)
                return [*self.tokens(before), number, *self.tokens(after)]
        return self._tokenizer.greedy_tokenize(text)

    def text(self, beginning: str = "", limit: int = 400) -> str | None:
        """A text of the grammar; None if the walk found no end."""
        tokens = self.tokens(beginning)
        assert self._matcher.consume_tokens(tokens), self._matcher.get_error()
        while not (self._matcher.is_stopped() or (self._matcher.is_accepting() and self._random.random() < 0.4)):
            options = [*self.hints, *self._closing]
            self._random.shuffle(options)
            piece = next((o for o in options if o and self._matcher.validate_tokens(o) == len(o)), None)
            if piece is None or self._random.random() < 0.3:
                piece = [self._any_token()]
            if piece[0] in self._tokenizer.eos_tokens:
                break
            assert self._matcher.consume_tokens(piece), self._matcher.get_error()
            tokens += piece
            if len(tokens) > limit:
                return None
        names = {number: name for name, number in self.special.items()}
        parts = (names[t].encode() if t in names else self._tokenizer.decode_bytes([t]) for t in tokens)
        return b"".join(parts).decode("utf-8", "replace")

    def accepts(self, text: str) -> bool:
        tokens = self.tokens(text)
        return self._matcher.try_consume_tokens(tokens) == len(tokens) and self._matcher.is_accepting()

    def _any_token(self) -> int:
        mask = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        allowed = np.flatnonzero(np.unpackbits(mask, bitorder="little", count=self._tokenizer.vocab_size))
        start = self._random.randrange(self._tokenizer.vocab_size)
        return int(allowed[np.searchsorted(allowed, start) % len(allowed)])


def samples(form: Format, grammar: str, count: int, beginning: str = "") -> list[str]:
    """Texts of the grammar, sampled at random."""
    found: list[str] = []
    for seed in range(8 * count):
        text = Sampler(form, grammar, seed).text(beginning)
        if text is not None:
            found.append(text)
        if len(found) == count:
            return found
    raise AssertionError(f"{len(found)} walks of {8 * count} came to an end")


def _markup(form: Format) -> Iterator[str]:
    if form.reasoning:
        yield from form.reasoning.close[:1]
    for header in form.headers:
        yield header.next
    for block in form.blocks:
        yield from block.close[:1]
        for call in block.calls:
            if not isinstance(call, JsonCall):
                close = getattr(call.arguments, "close", "")
                yield from (close, "\n" + close, getattr(call.arguments, "raw", ""), *call.close[:1])
            if not isinstance(call, JsonCall) and isinstance(call.arguments, JsonArguments):
                yield call.arguments.suffix
    if form.name == "minimax-m3":
        yield "]<]minimax[>[</city>"


def read(form: Format, text: str, inside: bool = False) -> Answer:
    return assemble(run(Machine(form, TOOLS, starts_in_reasoning=inside), [text]))


def check(answer: Answer) -> None:
    for call in answer.calls:
        VALIDATORS[call["name"]].validate(json.loads(call["arguments"]))


def special_tokens(name: str) -> dict[str, int]:
    return tokenizer(TOKENIZER_OF.get(name, "mini-dense-qwen3"))[1]


@pytest.mark.parametrize("parallel", [False, True], ids=["one", "parallel"])
@pytest.mark.parametrize("name", WRITERS)
def test_a_required_call_is_made_and_validates(name: str, parallel: bool) -> None:
    form = FORMATS[name]
    grammar = call_grammar(form, TOOLS, special_tokens=special_tokens(name), required=True, parallel=parallel)
    for text in samples(form, grammar, 4):
        answer = read(form, text)
        assert answer.calls, text
        assert parallel or len(answer.calls) == 1, text
        assert not answer.content.strip(), text
        check(answer)


@pytest.mark.parametrize("name", WRITERS)
def test_a_named_tool_is_the_only_one(name: str) -> None:
    form = FORMATS[name]
    grammar = call_grammar(form, TOOLS[1:], special_tokens=special_tokens(name), required=True, parallel=False)
    for text in samples(form, grammar, 2):
        assert [(call["name"], json.loads(call["arguments"])) for call in read(form, text).calls] == [("now", {})]


@pytest.mark.parametrize("name", WRITERS)
def test_a_call_that_the_model_chooses_to_make_validates(name: str) -> None:
    form = FORMATS[name]
    grammar = call_grammar(form, TOOLS, special_tokens=special_tokens(name), required=False, parallel=True)
    writes = next((header.writes for header in form.headers if header.writes), None)
    opening = form.blocks[0].open[0] if form.blocks else ""
    if writes is not None:
        opening = writes[Route.CALL].partition("{name}")[0]
    elif form.blocks[0].bare is None:
        opening = "Sure. " + opening
    for text in samples(form, grammar, 3, opening):
        answer = read(form, text)
        assert answer.calls, text
        check(answer)


@pytest.mark.parametrize("name", WRITERS)
def test_an_answer_may_go_without_a_call_unless_it_is_required(name: str) -> None:
    form = FORMATS[name]
    special = special_tokens(name)
    sampler = Sampler(form, call_grammar(form, TOOLS, special_tokens=special, required=False, parallel=True), 0)
    content = next((header.writes[Route.CONTENT] for header in form.headers if header.writes), "")
    assert sampler.accepts(content + "Hello.")
    sampler = Sampler(form, call_grammar(form, TOOLS, special_tokens=special, required=True, parallel=True), 0)
    assert not sampler.accepts(content + "Hello.")


@pytest.mark.parametrize("name", [name for name in WRITERS if FORMATS[name].reasoning])
def test_reasoning_that_the_prompt_has_begun_comes_first(name: str) -> None:
    form = FORMATS[name]
    grammar = call_grammar(
        form, TOOLS, special_tokens=special_tokens(name), required=True, parallel=False, starts_in_reasoning=True
    )
    for text in samples(form, grammar, 2):
        answer = read(form, text, inside=True)
        assert len(answer.calls) == 1, text
        check(answer)
        assert form.reasoning
        assert form.reasoning.close[0] in text


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}


@pytest.mark.parametrize("name", ["hermes", "mistral", "gpt-oss", "gemma-4", "plain"])
def test_an_answer_in_json_validates_after_reasoning(name: str) -> None:
    form = FORMATS[name]
    grammar = answer_grammar(form, json_body(SCHEMA), special_tokens=special_tokens(name))
    for text in samples(form, grammar, 4):
        answer = assemble(run(Machine(form, calls=False), [text]))
        jsonschema.validate(json.loads(answer.content), SCHEMA)


def test_any_json_object_will_do_for_json_mode() -> None:
    grammar = answer_grammar(FORMATS["plain"], json_body(None), special_tokens={})
    assert Sampler(FORMATS["plain"], grammar, 0).accepts('{"a": [1, {}]}')
    assert not Sampler(FORMATS["plain"], grammar, 0).accepts("[1]")


def test_reasoning_may_quote_markup() -> None:
    form, special = FORMATS["hermes"], special_tokens("hermes")
    grammar = call_grammar(form, TOOLS, special_tokens=special, required=True, parallel=False)
    call = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    assert Sampler(form, grammar, 0).accepts(f"<think>Is it {{now}}?</think>\n\n{call}")
    assert not Sampler(form, grammar, 0).accepts(f"Sure. {call}")
    assert not Sampler(form, grammar, 0).accepts(f"{call}\n{call}")


def test_pythonic_commas_are_right_whatever_is_left_out() -> None:
    form = FORMATS["pythonic"]
    grammar = call_grammar(form, TOOLS, special_tokens={}, required=True, parallel=True)
    assert Sampler(form, grammar, 0).accepts('[get_weather(city="x", days=1), now()]')
    assert Sampler(form, grammar, 0).accepts('[get_weather(city="x", unit="celsius", days=1, exact=True)]')
    assert not Sampler(form, grammar, 0).accepts('[get_weather(city="x" days=1)]')
    assert not Sampler(form, grammar, 0).accepts('[get_weather(city="x")]')
