"""What a client sees while the model writes."""

from __future__ import annotations

import json

import pytest

from mlx_server_nano.chat.deltas import CallArguments, CallEnd, CallStart, ContentDelta, Delta, ReasoningDelta
from mlx_server_nano.chat.formats import FORMATS
from mlx_server_nano.chat.formats.base import Id
from mlx_server_nano.chat.machine import Machine, new_id
from mlx_server_nano.types import Tool
from tests.chat.golden import assemble, run

WRITE = Tool(
    name="write",
    parameters={
        "type": "object",
        "properties": {"path": {"type": "string"}, "lines": {"type": "integer"}, "flag": {"type": ["boolean", "null"]}},
    },
)


def machine(name: str, *, inside: bool = False, calls: bool = True) -> Machine:
    return Machine(FORMATS[name], [WRITE], starts_in_reasoning=inside, calls=calls, make_id=lambda: "id")


# What is sent once the model has written so much of its call, and not more of it.
BEGUN = '{"path": "/sr'
STREAMED = [
    ("hermes", '<tool_call>\n{"name": "write", "arguments": {"path": "/sr', BEGUN),
    ("qwen-xml", "<tool_call>\n<function=write>\n<parameter=path>\n/sr", BEGUN),
    ("glm-4", "<tool_call>write\n<arg_key>path</arg_key>\n<arg_value>/sr", BEGUN),
    ("minimax-m2", '<minimax:tool_call>\n<invoke name="write">\n<parameter name="path">/sr', BEGUN),
    (
        "deepseek-v4",
        '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="write">\n<｜DSML｜parameter name="path" string="true">/sr',
        '{"path": "/sr',
    ),
    ("pythonic", '[write(path="/sr', BEGUN),
    ("lfm2", "<|tool_call_start|>[write(path='/sr", BEGUN),
    ("gemma-4", '<|tool_call>call:write{path:<|"|>/sr', BEGUN),
    (
        "kimi-k2",
        '<|tool_calls_section_begin|><|tool_call_begin|>functions.write:0<|tool_call_argument_begin|>{"path": "/sr',
        '{"path": "/sr',
    ),
    ("mistral", '[TOOL_CALLS]write[ARGS]{"path": "/sr', BEGUN),
    ("mistral-v7", '[TOOL_CALLS] [{"name": "write", "arguments": {"path": "/sr', BEGUN),
    ("llama-3", '{"name": "write", "parameters": {"path": "/sr', BEGUN),
    ("gpt-oss", '<|channel|>commentary to=functions.write <|constrain|>json<|message|>{"path": "/sr', BEGUN),
    (
        "command-r7b",
        '<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "write", "parameters": {"path": "/sr',
        '{"path": "/sr',
    ),
    ("minimax-m3", ']<]minimax[>[<tool_call>]<]minimax[>[<invoke name="write">]<]minimax[>[<path>/sr', BEGUN),
]


@pytest.mark.parametrize(("name", "text", "expected"), STREAMED, ids=[row[0] for row in STREAMED])
def test_arguments_stream_while_they_are_written(name: str, text: str, expected: str) -> None:
    running = machine(name)
    deltas: list[Delta] = []
    for char in text:
        deltas += running.feed(char)
    assert [d for d in deltas if isinstance(d, CallStart)] == [CallStart(0, deltas[0].id, "write")]  # type: ignore[union-attr]
    assert "".join(d.fragment for d in deltas if isinstance(d, CallArguments)) == expected


def test_a_call_is_known_as_soon_as_its_name_is() -> None:
    running = machine("hermes")
    assert running.feed('<tool_call>\n{"name": "write') == []
    assert running.feed('"') == [CallStart(0, "id", "write")]


def test_content_waits_only_for_what_may_be_markup() -> None:
    running = machine("hermes")
    assert running.feed("Is 1 <") == [ContentDelta("Is 1")]
    assert running.feed(" 2?") == [ContentDelta(" < 2?")]
    assert running.feed(" <tool_c") == []
    assert running.feed("hest>") == [ContentDelta(" <tool_chest>")]


def test_reasoning_and_content_come_apart() -> None:
    running = machine("hermes", inside=True)
    assert running.feed("Hm.\n</thi") == [ReasoningDelta("Hm.")]
    assert running.feed("nk>\n\nYes.") == [ContentDelta("Yes.")]
    assert running.finish() == []


def test_calls_count_up_and_end() -> None:
    call = '<tool_call>{"name": "write", "arguments": {}}</tool_call>'
    deltas = run(machine("hermes"), [f"{call}\n{call}"])
    assert deltas == [
        *(CallStart(0, "id", "write"), CallArguments(0, "{}"), CallEnd(0)),
        *(CallStart(1, "id", "write"), CallArguments(1, "{}"), CallEnd(1)),
    ]


@pytest.mark.parametrize(
    ("name", "text", "arguments"),
    [
        ("hermes", '<tool_call>{"name": "write", "arguments": {"path": }}</tool_call>', '{"path": }'),
        ("hermes", '<tool_call>{"name": "write", "arguments": NO}</tool_call>', "NO"),
        ("hermes", '<tool_call>{"name": "write", "arguments": {"path": "x"</tool_call>', '{"path": "x"'),
        ("mistral", "[TOOL_CALLS]write[ARGS]not json", "not json"),
        (
            "deepseek-v3.1",
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>write<｜tool▁sep｜>{x}<｜tool▁call▁end｜>",
            "{x}",
        ),
    ],
)
def test_malformed_arguments_go_out_as_they_are(name: str, text: str, arguments: str) -> None:
    answer = assemble(run(machine(name), text))
    assert [call["arguments"] for call in answer.calls] == [arguments]
    assert answer.content == ""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", "Write <tool_call> and </tool_call> around it."),
        ("hermes", "<tool_call>not valid json</tool_call>"),
        ("hermes", '<tool_call>{"arguments": {}}</tool_call>'),
        ("qwen-xml", "Use <function=write> for it."),
        ("llama-3", 'A user: {"name": "Alice", "parameters_of": 3}'),
        ("llama-3", '{"name": "not_declared", "parameters": {}}'),
        ("pythonic", "See [1] and [write(1)]."),
        ("pythonic", "[x, y]"),
        ("mistral", "[TOOL_CALLS] 42"),
        ("phi-4-mini", "import functools"),
        ("gemma-4", "<|tool_call>no call<tool_call|>"),
    ],
)
def test_what_only_looks_like_a_call_is_content(name: str, text: str) -> None:
    answer = assemble(run(machine(name), text))
    assert answer.calls == []
    assert answer.content == text


@pytest.mark.parametrize(
    ("schema", "written", "expected"),
    [
        ({"type": "string"}, "42", "42"),
        ({"type": "string"}, "true", "true"),
        ({"type": "string"}, "null", "null"),
        ({"type": "string"}, '{"a": 1}', '{"a": 1}'),
        ({"type": ["string", "null"]}, "null", None),
        ({"type": ["string", "null"]}, "nullable", "nullable"),
        ({"type": "integer"}, "42", 42),
        ({"type": "integer"}, "many", "many"),
        ({"type": "number"}, "1e3", 1000.0),
        ({"type": "boolean"}, "True", True),
        ({"type": "boolean"}, "yes", "yes"),
        ({"type": "array"}, "[1, 'a', None]", [1, "a", None]),
        ({"type": "object"}, '{"a": [1]}', {"a": [1]}),
        ({"type": "object"}, "{1, 2}", "{1, 2}"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "null", None),
        ({"$ref": "#/$defs/n"}, "7", 7),
        ({"enum": ["1", "2"]}, "1", "1"),
        ({}, "7", 7),
        ({}, "seven", "seven"),
        ({}, "[1]", [1]),
    ],
)
def test_values_in_tags_get_the_type_of_their_schema(schema: dict[str, object], written: str, expected: object) -> None:
    parameters = {"type": "object", "properties": {"p": schema}, "$defs": {"n": {"type": "integer"}}}
    running = Machine(FORMATS["qwen-xml"], [Tool(name="f", parameters=parameters)])
    text = f"<tool_call>\n<function=f>\n<parameter=p>\n{written}\n</parameter>\n</function>\n</tool_call>"
    (call,) = assemble(run(running, text)).calls
    assert json.loads(call["arguments"]) == {"p": expected}


def test_a_literal_end_marker_does_not_end_the_call() -> None:
    value = "a </parameter> b </function> c </tool_call> d <parameter=x> e"
    text = f"<tool_call>\n<function=write>\n<parameter=path>\n{value}\n</parameter>\n</function>\n</tool_call>"
    (call,) = assemble(run(machine("qwen-xml"), text)).calls
    assert json.loads(call["arguments"]) == {"path": value}


def test_a_call_in_reasoning_that_is_never_closed_is_a_call() -> None:
    call = '<tool_call>\n{"name": "write", "arguments": {}}\n</tool_call>'
    answer = assemble(run(machine("hermes", inside=True), f"I call it. {call}"))
    assert (answer.reasoning, len(answer.calls)) == ("I call it.", 1)
    answer = assemble(run(machine("hermes", inside=True), f"I could {call} it.</think>No."))
    assert (answer.reasoning, answer.content, answer.calls) == (f"I could {call} it.", "No.", [])


def test_without_calls_their_markup_is_content() -> None:
    text = '<tool_call>{"name": "write", "arguments": {}}</tool_call>'
    answer = assemble(run(machine("hermes", calls=False), text))
    assert (answer.content, answer.calls) == (text, [])


def test_a_truncated_value_stays_open() -> None:
    running = machine("qwen-xml")
    deltas = running.feed("<tool_call>\n<function=write>\n<parameter=path>\n/srv") + running.finish()
    assert deltas == [CallStart(0, "id", "write"), CallArguments(0, '{"path": "/srv'), CallEnd(0)]


def test_a_header_that_the_answer_ends_in_is_no_content() -> None:
    assert run(machine("gpt-oss"), "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|chan") == [
        ReasoningDelta("Hm.")
    ]


@pytest.mark.parametrize(
    ("name", "opening"),
    [
        ("pythonic", "[write(path="),
        ("hermes", '<tool_call>{"name": "write", "arguments": '),
        ("gemma-4", "<|tool_call>call:write{x:"),
    ],
)
def test_deep_nesting_is_no_danger(name: str, opening: str) -> None:
    assert len(assemble(run(machine(name), [opening + "[" * 5000])).calls) == 1


def test_fresh_ids_have_the_form_of_the_family() -> None:
    assert new_id(Id.OPENAI).startswith("call_")
    nine = new_id(Id.NINE)
    assert len(nine) == 9
    assert nine.isalnum()
    assert new_id(Id.OPENAI) != new_id(Id.OPENAI)
