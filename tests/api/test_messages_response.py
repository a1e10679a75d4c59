"""A streamed message says what the whole one says, whatever the events."""

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest
from anthropic.types import Message as WireMessage
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_server_nano.api.messages_request import MessagesBody
from mlx_server_nano.api.messages_response import MessageAnswer, MessageStream
from mlx_server_nano.api.messages_thinking import recall
from mlx_server_nano.chat.request import ChatRequest
from mlx_server_nano.errors import WorkerDiedError
from mlx_server_nano.protocol import Delta, Event, Started
from mlx_server_nano.types import FinishReason, Message, Role, Tool

CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Rome", "days": 2}}</tool_call>'
CLOCK = '<tool_call>{"name": "clock", "arguments": {}}</tool_call>'
BROKEN = '<tool_call>{"name": "clock", "arguments": {"a": '
CHAT = ChatRequest(
    messages=(Message(role=Role.USER, content="hi"),), tools=(Tool(name="weather"), Tool(name="clock")), max_tokens=50
)
PARTS = st.sampled_from(["Rome it is. ", "</think>", "<think>", "On it.", CALL, CLOCK, BROKEN, "\n", "ö", "<tool"])


@st.composite
def answers(draw: st.DrawFn) -> list[list[Event]]:
    """Steps of events: an answer cut anywhere."""
    text = "".join(draw(st.lists(PARTS, max_size=8)))
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=20)))
    at = [0, *cuts, len(text)]
    events: list[Event] = [Started(0, draw(st.integers(3, 9)), 3, draw(st.sampled_from(["", "<think>"])))]
    events += [Delta(0, 0, text[a:b], draw(st.integers(0, 4))) for a, b in itertools.pairwise(at)]
    finish = draw(st.sampled_from([FinishReason.STOP, FinishReason.LENGTH]))
    events.append(Delta(0, 0, "", 1, finish=finish, stop=draw(st.sampled_from([None, "END"]))))
    steps = sorted(draw(st.sets(st.integers(0, len(events)), max_size=4)))
    return [events[a:b] for a, b in itertools.pairwise([0, *steps, len(events)])]


def accumulated(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The message that a client puts together, by the rules of Anthropic's documentation."""
    first, *blocks, delta, last = events
    assert (first["type"], delta["type"], last) == ("message_start", "message_delta", {"type": "message_stop"})
    message: dict[str, Any] = {**first["message"], **delta["delta"], "usage": delta["usage"], "content": []}
    content: list[Any] = message["content"]
    arguments = ""
    inside = False
    for event in blocks:
        assert event["index"] == len(content) - inside
        if event["type"] == "content_block_start":
            assert not inside
            inside, arguments = True, ""
            content.append(event["content_block"])
        elif event["type"] == "content_block_stop":
            assert inside
            inside = False
            if content[-1]["type"] == "tool_use":
                content[-1]["input"] = read(arguments)
        elif event["delta"]["type"] == "input_json_delta":
            arguments += event["delta"]["partial_json"]
        else:
            (name,) = event["delta"].keys() - {"type"}
            assert event["delta"][name]
            content[-1][name] += event["delta"][name]
    assert not inside
    return message


def read(arguments: str) -> object:
    try:
        value = json.loads(arguments or "{}")
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"INVALID_JSON": arguments}


def comparable(message: dict[str, Any]) -> dict[str, Any]:
    """Without the ids, which are made anew each time."""
    blocks = [block | {"id": ""} if "id" in block else block for block in message["content"]]
    return {**message, "id": "", "content": blocks}


@given(answers(), st.booleans())
def test_stream_and_answer_agree(hermes, steps, with_thinking):
    answer = MessageAnswer("ö", CHAT, with_thinking=with_thinking)
    stream = MessageStream("ö", CHAT, with_thinking=with_thinking)
    answer.begin(hermes)
    stream.begin(hermes)
    data = b""
    for step in steps:
        answer.feed(step)
        data += stream.feed(step)
    whole = json.loads(answer.body())
    *lines, rest = (data + stream.end()).decode().split("\n\n")
    assert rest == ""
    events = []
    for line in lines:
        name, _, event = line.partition("\ndata: ")
        events.append(json.loads(event))
        assert name == f"event: {events[-1]['type']}"
    assert comparable(accumulated(events)) == comparable(whole)
    WireMessage.model_validate(whole, strict=True)
    for block in whole["content"]:
        if block["type"] == "thinking":
            assert recall(block["signature"])
            assert block["thinking"] in (recall(block["signature"]) if with_thinking else "")
    assert len({block["id"] for block in whole["content"] if "id" in block}) == sum(
        block["type"] == "tool_use" for block in whole["content"]
    )
    assert (whole["stop_reason"] == "stop_sequence") == (whole["stop_sequence"] is not None)


def test_failure(hermes):
    stream = MessageStream("m", CHAT, with_thinking=True)
    stream.begin(hermes)
    stream.feed([Started(0, 1, 0, ""), Delta(0, 0, "Hel", 1)])
    name, data, *rest = stream.fail(WorkerDiedError("It died.")).decode().split("\n")
    assert (name, rest) == ("event: error", ["", ""])
    assert json.loads(data.removeprefix("data: ")) == {
        "type": "error",
        "error": {"type": "api_error", "message": "It died."},
        "request_id": None,
    }


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=5)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
TYPES = ["text", "image", "tool_use", "tool_result", "thinking", "redacted_thinking"]
FIELDS = ["text", "thinking", "signature", "id", "name", "input", "tool_use_id", "content", "is_error"]
blocks = st.fixed_dictionaries(
    {"type": st.sampled_from(TYPES) | values}, optional={name: st.text(max_size=3) | values for name in FIELDS}
)
messages = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system"]) | values,
        "content": values | st.lists(blocks, max_size=3),
    }
)
required = ("model", "messages", "max_tokens")
bodies = st.fixed_dictionaries(
    {"model": st.just("m"), "max_tokens": st.just(5), "messages": st.lists(messages, min_size=1, max_size=3)},
    optional={name: values for name in MessagesBody.__struct_fields__ if name not in required},
)


@pytest.fixture(scope="module")
def connections() -> Iterator[httpx.Client]:
    with httpx.Client() as client:
        yield client


@settings(max_examples=150)
@given(bodies | values, st.sampled_from(["", "/count_tokens"]))
def test_random_bodies(connections, server, body, path):
    response = connections.post(f"{server.url}/v1/messages{path}", content=json.dumps(body).encode())
    assert response.status_code in (200, 400), response.text
    if response.status_code == 400:
        assert response.json().keys() == {"type", "error", "request_id"}
