from __future__ import annotations

import json
from typing import Any

import pytest

from mlx_server_nano.cli.conversation import Conversation, Part, Reply, read_tools


def chunk(**delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta}]}


def piece(index: int, **function: str) -> dict[str, Any]:
    return chunk(tool_calls=[{"index": index, "id": f"call_{index}", "function": function}])


def test_an_answer_in_pieces() -> None:
    reply = Reply()
    events = [
        chunk(role="assistant", content=""),
        chunk(reasoning_content="Hm."),
        chunk(content="He"),
        chunk(content="llo"),
        piece(0, name="f", arguments=""),
        piece(0, arguments='{"a"'),
        piece(0, arguments=": 1}"),
        piece(1, name="g", arguments="{}"),
        {"choices": [], "usage": {"completion_tokens": 9}},
    ]
    assert list(reply.read(events)) == [
        (Part.THINKING, "Hm."),
        (Part.TEXT, "He"),
        (Part.TEXT, "llo"),
        (Part.CALL, "f"),
        (Part.ARGUMENTS, '{"a"'),
        (Part.ARGUMENTS, ": 1}"),
        (Part.CALL, "g"),
        (Part.ARGUMENTS, "{}"),
    ]
    assert reply.tokens == 9
    assert reply.to_wire() == {
        "role": "assistant",
        "content": "Hello",
        "tool_calls": [
            {"id": "call_0", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
            {"id": "call_1", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ],
    }


def test_what_is_sent() -> None:
    talk = Conversation("m", "Be brief.")
    talk.messages.append({"role": "user", "content": "hi"})
    for name, value in [("temperature", "0.2"), ("stop", '["a", "b"]'), ("reasoning_effort", "low"), ("seed", "1")]:
        talk.set(name, value)
    talk.set("seed", "default")
    talk.tools = read_tools('[{"name": "f"}]')
    assert talk.body() == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
        "temperature": 0.2,
        "stop": ["a", "b"],
        "reasoning_effort": "low",
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    talk.think("off")
    assert talk.options["reasoning_effort"] == "none"


def test_what_can_not_be_set() -> None:
    talk = Conversation("m")
    with pytest.raises(ValueError, match="no 'temprature'; there are temperature, "):
        talk.set("temprature", "1")
    with pytest.raises(ValueError, match="/think on or"):
        talk.think("")
    for text in ("{}", "[1]", "no"):
        with pytest.raises(ValueError):
            read_tools(text)


def test_a_saved_conversation_is_a_request() -> None:
    talk = Conversation("m", messages=[{"role": "user", "content": "hü"}])
    saved = json.loads(talk.to_json())
    assert saved == {"model": "m", "messages": talk.messages}
