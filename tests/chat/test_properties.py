"""What holds for any text in any format: no splitting changes the deltas, none is lost, none crashes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_server_nano.chat.deltas import CallArguments, CallEnd, CallStart
from mlx_server_nano.chat.formats import FORMATS
from mlx_server_nano.chat.formats.base import Format, Header, TextCall
from mlx_server_nano.chat.machine import Machine
from mlx_server_nano.types import Tool
from tests.chat.golden import assemble, iter_ids, run
from tests.chat.lost import lost_words

TOOLS = [
    Tool(
        name="f",
        parameters={"type": "object", "properties": {"s": {"type": "string"}, "n": {"type": ["integer", "null"]}}},
    )
]
FRAGMENTS = [
    *(
        "f",
        "s",
        "n",
        "a1",
        "42",
        "null",
        "True",
        "é🎉",
        " ",
        "\n",
        "\n\n",
        "\\",
        '"',
        "'",
        "<",
        ">",
        "/",
        "=",
        ":",
        ",",
        "-",
    ),
    *("{", "}", "[", "]", "(", ")", '{"name": "f", "arguments": {', '"s": "x"', '"name"', '{"f": {', "f(s='x", "to=f"),
    *("functions.f:0", "```", "<![CDATA[", "]]>", "; ", "all", "call:f{", 's="y"', "\\u00e9", "thought\n"),
]


def markup(value: Any) -> Iterator[str]:
    """All markers in a format's table."""
    if isinstance(value, tuple):
        for item in value:
            yield from markup(item)
    elif isinstance(value, str):
        yield value
    elif is_dataclass(value):
        skipped = (
            {"name", "signs", "head", "written", "routes", "writes"}
            if isinstance(value, Format | TextCall | Header)
            else ()
        )
        for entry in fields(value):
            if entry.name not in skipped:
                yield from markup(getattr(value, entry.name))


def texts(form: Format) -> st.SearchStrategy[str]:
    pieces = sorted({text for text in markup(form) if text}) + FRAGMENTS
    return st.lists(st.sampled_from(pieces), max_size=24).map("".join)


def machine(form: Format, inside: bool, tools: bool) -> Machine:
    return Machine(form, TOOLS if tools else (), starts_in_reasoning=inside, make_id=iter_ids().__next__)


@pytest.mark.parametrize("name", sorted(FORMATS))
@given(data=st.data())
@settings(max_examples=80)
def test_any_text_in_any_pieces(name: str, data: st.DataObject) -> None:
    form = FORMATS[name]
    text = data.draw(texts(form))
    inside, tools = data.draw(st.booleans()), data.draw(st.booleans())
    whole = run(machine(form, inside, tools), [text])
    assert run(machine(form, inside, tools), text) == whole
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert run(machine(form, inside, tools), pieces) == whole
    assert not lost_words(form, text, assemble(whole))


@pytest.mark.parametrize("name", sorted(FORMATS))
@given(data=st.data())
@settings(max_examples=40)
def test_calls_begin_and_end_in_order(name: str, data: st.DataObject) -> None:
    form = FORMATS[name]
    open_call = None
    count = 0
    for delta in run(machine(form, False, True), [data.draw(texts(form))]):
        if isinstance(delta, CallStart):
            assert open_call is None
            assert delta.index == count
            open_call, count = delta.index, count + 1
        elif isinstance(delta, CallArguments):
            assert delta.index == open_call
        elif isinstance(delta, CallEnd):
            assert delta.index == open_call
            open_call = None
    assert open_call is None


@given(text=st.text(max_size=80))
@settings(max_examples=200)
def test_text_without_markup_comes_out_as_it_is(text: str) -> None:
    assert assemble(run(Machine(FORMATS["plain"]), list(text))).content == text


@given(value=st.text(max_size=60))
@settings(max_examples=200)
def test_a_string_parameter_is_its_text(value: str) -> None:
    tools = [Tool(name="f", parameters={"type": "object", "properties": {"s": {"type": "string"}}})]
    text = f"<tool_call>\n<function=f>\n<parameter=s>\n{value}\n</parameter>\n</function>\n</tool_call>"
    (call,) = assemble(run(Machine(FORMATS["qwen-xml"], tools), text)).calls
    assert json.loads(call["arguments"]) == {"s": value}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(arguments=st.dictionaries(st.text(max_size=6), JSON, max_size=4))
@settings(max_examples=150)
def test_json_arguments_come_out_as_they_are(arguments: dict[str, Any]) -> None:
    written = json.dumps(arguments, ensure_ascii=False)
    text = f'<tool_call>\n{{"name": "f", "arguments": {written}}}\n</tool_call>'
    (call,) = assemble(run(Machine(FORMATS["hermes"]), text)).calls
    assert call["arguments"] == written


@given(arguments=st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), JSON, max_size=4))
@settings(max_examples=150)
def test_python_literals_mean_the_same_in_json(arguments: dict[str, Any]) -> None:
    written = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    (call,) = assemble(run(Machine(FORMATS["pythonic"]), f"[f({written})]")).calls
    assert json.loads(call["arguments"]) == arguments
