import json
from typing import Any

import pytest

from mlx_server_nano.api.responses_request import decode
from mlx_server_nano.api.responses_store import ResponseStore
from mlx_server_nano.chat.request import AnswerFormat, CallMode, ChatRequest, Thinking, ToolChoice
from mlx_server_nano.errors import InvalidRequestError, UnsupportedParameterError
from mlx_server_nano.types import Message, Role, Sampling, ToolCall

F: Any = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
G: Any = {"type": "custom", "name": "g"}


def decoded(**fields: Any) -> ChatRequest:
    body = {"model": "m", "input": "hi", **fields}
    return decode(json.dumps(body).encode(), ResponseStore())[0]


def messages(*items: Any, **fields: Any) -> list[Message]:
    return list(decoded(input=list(items), **fields).messages)


def user(content: Any = "hi") -> dict:
    return {"role": "user", "content": content}


def call(call_id: str | None = "1", **fields: Any) -> dict:
    return {"type": "function_call", "call_id": call_id, "name": "f", "arguments": "{}", **fields}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("a", "a"),
        ([{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}], "a\nb"),
        ([{"type": "text", "text": "a"}], "a"),
        ([], ""),
    ],
)
@pytest.mark.parametrize("extra", [{}, {"type": "message"}, {"type": "message", "status": "completed", "id": None}])
def test_messages(content, text, extra):
    assert messages({**user(content), **extra}) == [Message(role=Role.USER, content=text)]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "output_text", "text": "a", "annotations": [], "logprobs": None},
        {"type": "refusal", "refusal": "a"},
        {"type": "input_text", "text": "a"},
    ],
)
def test_assistant_parts(part):
    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}
    assert messages(user(), item)[1] == Message(role=Role.ASSISTANT, content="a")


def test_instructions_come_first():
    assert messages({"role": "developer", "content": "d"}, instructions="i") == [
        Message(role=Role.SYSTEM, content="i"),
        Message(role=Role.DEVELOPER, content="d"),
    ]


def test_one_turn_is_one_message():
    turn = [
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "r"}]},
        {"role": "assistant", "content": "c"},
        call("1"),
        {"type": "custom_tool_call", "call_id": "2", "name": "g", "input": 'a"b'},
    ]
    results = [
        {"type": "function_call_output", "call_id": "1", "output": "x"},
        {"type": "custom_tool_call_output", "call_id": "2", "output": [{"type": "input_text", "text": "y"}]},
    ]
    assert messages(user(), *turn, *results, {"role": "assistant", "content": "d"}) == [
        Message(role=Role.USER, content="hi"),
        Message(
            role=Role.ASSISTANT,
            content="c",
            reasoning="r",
            tool_calls=(
                ToolCall(id="1", name="f", arguments="{}"),
                ToolCall(id="2", name="g", arguments='{"input":"a\\"b"}'),
            ),
        ),
        Message(role=Role.TOOL, content="x", tool_call_id="1"),
        Message(role=Role.TOOL, content="y", tool_call_id="2"),
        Message(role=Role.ASSISTANT, content="d"),
    ]


def test_two_answers_in_a_row_stay_two():
    said = [{"role": "assistant", "content": text} for text in "ab"]
    assert [m.content for m in messages(user(), *said)] == ["hi", "a", "b"]


@pytest.mark.parametrize(
    ("item", "reasoning"),
    [
        ({"summary": [{"type": "summary_text", "text": "s"}]}, "s"),
        (
            {"summary": [{"type": "summary_text", "text": "s"}], "content": [{"type": "reasoning_text", "text": "c"}]},
            "c",
        ),
        ({"summary": [], "encrypted_content": "of another server"}, None),
        ({"summary": [], "encrypted_content": "mlx-server-nano:!"}, None),
        ({}, None),
    ],
)
def test_reasoning(item, reasoning):
    said = messages(user(), {"type": "reasoning", "id": "rs_1", **item}, {"role": "assistant", "content": "a"})
    assert said[1] == Message(role=Role.ASSISTANT, content="a", reasoning=reasoning)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input.0.role"),
        ({"input": [{"role": "user"}]}, "input.0.content"),
        ({"input": [{"type": "message", "content": "x"}]}, "input.0.role"),
        ({"input": [user([{"type": "output_text", "text": "x"}])]}, "input.0.content.0.type"),
        ({"input": [user([{"type": "input_image", "image_url": "x"}])]}, "input.0.content.0.type"),
        ({"input": [user([{"type": "input_text"}])]}, "input.0.content.0.text"),
        ({"input": [user(), call(call_id=None)]}, "input.1.call_id"),
        ({"input": [user(), call(name=None)]}, "input.1.name"),
        ({"input": [user(), call(arguments=None)]}, "input.1.arguments"),
        ({"input": [{"type": "function_call_output", "call_id": "1"}]}, "input.0.output"),
        ({"input": [{"type": "custom_tool_call", "call_id": "1", "name": "g"}]}, "input.0.input"),
        ({"input": [{"type": "web_search_call", "id": "x"}]}, "input.0.type"),
        ({"max_output_tokens": 15}, "max_output_tokens"),
        ({"truncation": "some"}, "truncation"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"include": ["nothing"]}, "include.0"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
        ({"metadata": {"a": "x" * 513}}, "metadata"),
        ({"stream_options": {}}, "stream_options"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"tools": [{"type": "function"}]}, "tools.0.name"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools.0.name"),
        (
            {"tools": [{"type": "custom", "name": "f", "format": {"type": "grammar", "syntax": "lark"}}]},
            "tools.0.format.definition",
        ),
        ({"tools": [F, {**G, "name": "f"}]}, "tools.1.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "any", "tools": [F]}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "g"}, "tools": [F, G]}, "tool_choice.name"),
        ({"tool_choice": {"type": "custom", "name": "f"}, "tools": [F, G]}, "tool_choice.name"),
        ({"tool_choice": {"type": "web_search"}, "tools": [F]}, "tool_choice.type"),
        ({"tool_choice": {"type": "allowed_tools", "tools": [F]}, "tools": [F]}, "tool_choice.mode"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto"}, "tools": [F]}, "tool_choice.tools"),
        (
            {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function"}]}, "tools": [F]},
            "tool_choice.tools.0.name",
        ),
    ],
)
def test_faults(fields, param):
    with pytest.raises(InvalidRequestError) as caught:
        decoded(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"moderation": {}}, "moderation"),
        ({"tools": [{"type": "file_search", "vector_store_ids": []}]}, "tools.0.type"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools.0.type"),
    ],
)
def test_refused_by_name(fields, param):
    with pytest.raises(
        UnsupportedParameterError, match=fields["tools"][0]["type"] if "tools" in fields else param
    ) as e:
        decoded(**fields)
    assert e.value.param == param


def test_what_asks_for_nothing_is_fine():
    given: dict[str, Any] = {"background": False, "truncation": "disabled", "context_management": [], "include": []}
    names = ("conversation", "prompt", "tools", "tool_choice", "text", "reasoning", "metadata", "store", "stream")
    assert decoded(**given, **dict.fromkeys(names)) == decoded()


def test_sampling_and_limits():
    chat = decoded(temperature=0.5, top_p=0.9, seed=1, max_output_tokens=20)
    assert chat.sampling == Sampling(temperature=0.5, top_p=0.9, seed=1)
    assert chat.max_tokens == 20
    assert decoded().max_tokens is None


@pytest.mark.parametrize(
    ("effort", "thinking"), [("none", Thinking(enabled=False)), ("high", Thinking(effort="high")), (None, Thinking())]
)
def test_reasoning_effort(effort, thinking):
    assert decoded(reasoning={"effort": effort}).thinking == thinking


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, AnswerFormat(param="text.format")),
        (
            {"type": "json_schema", "name": "x", "schema": {"type": "array"}},
            AnswerFormat(param="text.format", schema={"type": "array"}),
        ),
    ],
)
def test_text_format(given, answer):
    assert decoded(text={"format": given}).answer == answer


@pytest.mark.parametrize(
    ("given", "choice"),
    [
        (None, ToolChoice()),
        ("none", ToolChoice(mode=CallMode.NONE)),
        ("required", ToolChoice(mode=CallMode.REQUIRED)),
        ({"type": "function", "name": "f"}, ToolChoice(mode=CallMode.REQUIRED, only=frozenset("f"))),
        ({"type": "custom", "name": "g"}, ToolChoice(mode=CallMode.REQUIRED, only=frozenset("g"))),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "custom", "name": "g"}]},
            ToolChoice(only=frozenset("g")),
        ),
    ],
)
@pytest.mark.parametrize("parallel", [True, False])
def test_tool_choice(given, choice, parallel):
    chat = decoded(tools=[F, G], tool_choice=given, parallel_tool_calls=parallel)
    assert chat.choice == ToolChoice(mode=choice.mode, only=choice.only, parallel=parallel)


def test_auto_without_tools_is_fine():
    assert decoded(tool_choice="auto", tools=[{"type": "web_search"}]).tools == ()


def test_tools():
    lark = {"type": "grammar", "syntax": "lark", "definition": 'start: "a"'}
    f, g, h = decoded(tools=[F, {**G, "description": "Edits."}, {**G, "name": "h", "format": lark}]).tools
    assert (f.name, f.parameters, f.strict) == ("f", {"type": "object"}, True)
    assert g.parameters is not None and list(g.parameters["properties"]) == ["input"]
    assert g.description == "Edits."
    assert h.description is not None and 'start: "a"' in h.description
