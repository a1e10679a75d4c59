import json
from typing import Any

import msgspec
import pytest

from mlx_server_nano.api.chat_messages import ChatMessage, to_message
from mlx_server_nano.errors import InvalidRequestError, UnsupportedParameterError
from mlx_server_nano.types import Message, Role, ToolCall


def message(**fields: Any) -> Message:
    return to_message(msgspec.convert(fields, ChatMessage), "messages.3")


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
CALLS = (ToolCall(id="c1", name="f", arguments='{"a": 1}'),)


@pytest.mark.parametrize("role", ["system", "developer", "user"])
@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("hi", "hi"),
        ("", ""),
        ([{"type": "text", "text": "hi"}], "hi"),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b", "cache_control": {}}], "a\nb"),
    ],
)
def test_texts(role, content, text):
    assert message(role=role, content=content, name="n") == Message(role=Role(role), content=text, name="n")


def test_tool_message():
    expected = Message(role=Role.TOOL, content="1", tool_call_id="c1", name="f")
    assert message(role="tool", content="1", tool_call_id="c1", name="f") == expected
    assert message(role="tool", content=[{"type": "text", "text": ""}], tool_call_id="c1").content == ""


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"content": "hi"}, {"content": "hi"}),
        ({"tool_calls": [CALL]}, {"tool_calls": CALLS}),
        ({"content": None, "tool_calls": [{**CALL, "index": 0}]}, {"tool_calls": CALLS}),
        ({"content": "", "tool_calls": [CALL], "refusal": None}, {"content": "", "tool_calls": CALLS}),
        ({"content": "hi", "tool_calls": []}, {"content": "hi"}),
        ({"content": "hi", "tool_calls": None, "annotations": [], "audio": None}, {"content": "hi"}),
        ({"content": "hi", "reasoning_content": "hm"}, {"content": "hi", "reasoning": "hm"}),
        ({"content": "hi", "reasoning": "hm"}, {"content": "hi", "reasoning": "hm"}),
        ({"reasoning": "hm"}, {"reasoning": "hm"}),
        ({"refusal": "no"}, {"content": "no"}),
        ({"content": [{"type": "refusal", "refusal": "no"}]}, {"content": "no"}),
        ({"content": [{"type": "text", "text": "a"}]}, {"content": "a"}),
    ],
)
def test_assistant(fields, expected):
    assert message(role="assistant", **fields) == Message(role=Role.ASSISTANT, **expected)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"role": "robot", "content": "x"}, "role"),
        ({"role": "function", "content": "x", "name": "f"}, "role"),
        ({"role": "user"}, "content"),
        ({"role": "system", "content": None}, "content"),
        ({"role": "user", "content": []}, "content"),
        ({"role": "user", "content": [{"type": "nonsense"}]}, "content.0.type"),
        ({"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "text"}]}, "content.1.text"),
        ({"role": "user", "content": [{"type": "refusal", "refusal": "x"}]}, "content.0.type"),
        ({"role": "tool", "content": "x"}, "tool_call_id"),
        ({"role": "tool", "tool_call_id": "c"}, "content"),
        ({"role": "assistant"}, "content"),
        ({"role": "assistant", "content": None, "tool_calls": []}, "content"),
        ({"role": "assistant", "tool_calls": [{"id": "c", "type": "function"}]}, "tool_calls.0.function"),
        ({"role": "assistant", "tool_calls": [{"id": "c", "type": "custom"}]}, "tool_calls.0.custom"),
    ],
)
def test_bad_messages(fields, param):
    with pytest.raises(InvalidRequestError) as caught:
        message(**fields)
    assert caught.value.param == f"messages.3.{param}"


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file"])
def test_text_only(kind):
    with pytest.raises(InvalidRequestError, match="text-only") as caught:
        message(
            role="user", content=[{"type": "text", "text": "what is this?"}, {"type": kind, kind: {"url": "data:"}}]
        )
    assert caught.value.param == "messages.3.content.1.type"


def test_the_deprecated_form_of_a_call():
    with pytest.raises(UnsupportedParameterError) as caught:
        message(role="assistant", function_call={"name": "f", "arguments": "{}"})
    assert caught.value.param == "messages.3.function_call"


def test_a_custom_call_is_told_as_the_function_that_the_model_knows():
    call = {"id": "c", "type": "custom", "custom": {"name": "f", "input": 'a"b'}}
    (told,) = message(role="assistant", tool_calls=[call]).tool_calls
    assert (told.id, told.name, json.loads(told.arguments)) == ("c", "f", {"input": 'a"b'})
