"""A streamed response says what the whole one says, whatever the events."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_server_nano.api.responses_request import decode
from mlx_server_nano.api.responses_response import ResponseAnswer, ResponseStream
from mlx_server_nano.api.responses_store import ResponseStore
from mlx_server_nano.protocol import Delta, Event, Started
from mlx_server_nano.types import Alternative, FinishReason, TokenLogprob

TOOLS = [
    {"type": "function", "name": "weather", "parameters": None, "strict": False},
    {"type": "custom", "name": "patch"},
]
ANSWERS = (
    "<think>\nRome it is.</think>\n\nOn it. "
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome", "days": 2}}\n</tool_call>\n'
    '<tool_call>\n{"name": "patch", "arguments": {"input": "a\\n\\"b\\""}}\n</tool_call>',
    "<think>\nHm.</think> First. <think>Still.</think> Then.",
    "<think>never ends",
    "Plain  text. ",
    "",
)
# Fields that differ between two responses to one request.
OWN = ("id", "item_id", "created_at", "completed_at", "call_id")


def without_own(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_own(inner) for name, inner in value.items() if name not in OWN}
    return [without_own(inner) for inner in value] if isinstance(value, list) else value


def rebuilt(events: list[dict]) -> list[dict]:
    """The output items as a client puts them together from the events between `added` and `done`."""
    items: list[dict] = []
    for event in events:
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert event["output_index"] == len(items)
            items.append(event["item"])
            continue
        if "output_index" not in event:
            continue
        item = items[event["output_index"]]
        assert event.get("item_id", item["id"]) == item["id"]
        place = "summary" if "summary" in kind else "content"
        if kind.endswith("part.added"):
            assert event[f"{place}_index"] == len(item[place])
            item[place].append(event["part"])
        elif kind.endswith("part.done"):
            assert item[place][-1] == event["part"]
        elif kind.endswith("text.delta"):
            part = item[place][-1]
            part["text"] += event["delta"]
            if "logprobs" in part:
                part["logprobs"] += event["logprobs"]
        elif kind.endswith("text.done"):
            assert item[place][-1]["text"] == event["text"]
            assert item[place][-1].get("logprobs") == event.get("logprobs")
        elif kind.endswith(".delta"):
            field = "arguments" if "arguments" in kind else "input"
            item[field] += event["delta"]
        elif kind.endswith("arguments.done"):
            assert (item["arguments"], item["name"]) == (event["arguments"], event["name"])
        elif kind.endswith("input.done"):
            assert item["input"] == event["input"]
        else:
            assert kind == "output_item.done"
            item["status"] = event["item"]["status"]
            if "encrypted_content" in event["item"]:
                item["encrypted_content"] = event["item"]["encrypted_content"]
            assert item == event["item"]
    return items


@given(
    st.sampled_from(ANSWERS),
    st.lists(st.integers(0, 200), max_size=12),
    st.sampled_from([FinishReason.STOP, FinishReason.LENGTH]),
    st.booleans(),
    st.booleans(),
)
def test_stream_and_answer_agree(validate, hermes, written, cuts, finish, summarize, sealed):
    asked = {
        "model": "m",
        "input": "hi",
        "tools": TOOLS,
        "reasoning": {"summary": "auto"} if summarize else {},
        "include": ["reasoning.encrypted_content"] if sealed else [],
        "top_logprobs": 1,
    }
    store = ResponseStore()
    chat, options = decode(json.dumps(asked).encode(), store)
    answer, stream = ResponseAnswer(chat, options, store), ResponseStream(chat, options, store)
    token = TokenLogprob(b"x", -1.0, (Alternative(b"x", -1.0),))
    at = [0, *sorted(min(cut, len(written)) for cut in cuts), len(written)]
    events: list[Event] = [Started(0, 5, 2, "")]
    events += [Delta(0, 0, written[a:b], 1, (token,)) for a, b in itertools.pairwise(at)]
    events.append(Delta(0, 0, "", 1, (), finish))
    for encoder in (answer, stream):
        encoder.begin(hermes)
    data = b""
    for event in events:
        answer.feed([event])
        data += stream.feed([event])
    whole = json.loads(answer.body())
    validate(whole, "Response")

    *parts, rest = (data + stream.end()).decode().split("\n\n")
    assert rest == ""
    told = [json.loads(part.partition("\ndata: ")[2]) for part in parts]
    for event in told:
        validate(event, "ResponseStreamEvent")
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    final = told[-1]["response"]
    assert told[-1]["type"] == f"response.{whole['status']}"
    assert without_own(final) == without_own(whole)
    assert rebuilt(told) == final["output"]
    assert len({item["id"] for item in final["output"]}) == len(final["output"])
    if finish is FinishReason.STOP:
        assert {item["status"] for item in whole["output"]} == {"completed"}
        assert {item["type"] for item in whole["output"]} - {"reasoning"}
    assert store.get(final["id"]).body == json.dumps(final, ensure_ascii=False, separators=(",", ":")).encode()


def answer_of(hermes, written: str, finish: FinishReason = FinishReason.STOP, **fields: Any) -> dict:
    body = {"model": "m", "input": "hi", "tools": TOOLS, **fields}
    chat, options = decode(json.dumps(body).encode(), ResponseStore())
    answer = ResponseAnswer(chat, options, ResponseStore())
    answer.begin(hermes)
    answer.feed([Started(0, 5, 2, ""), Delta(0, 0, written, 4, (), finish)])
    return json.loads(answer.body())


def test_items_come_in_order(hermes):
    output = answer_of(hermes, ANSWERS[0])["output"]
    assert [item["type"] for item in output] == ["reasoning", "message", "function_call", "custom_tool_call"]
    reasoning, message, weather, patch = output
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "Rome it is."}]
    assert reasoning["summary"] == []
    assert message["content"] == [{"type": "output_text", "text": "On it.", "annotations": [], "logprobs": []}]
    assert json.loads(weather["arguments"]) == {"city": "Rome", "days": 2}
    assert patch["input"] == 'a\n"b"'


def test_summary_takes_the_place_of_reasoning(hermes):
    (reasoning, _) = answer_of(hermes, "<think>Hm.</think>Yes.", reasoning={"summary": "detailed"})["output"]
    assert reasoning["summary"] == [{"type": "summary_text", "text": "Hm."}]
    assert "content" not in reasoning


@pytest.mark.parametrize("arguments", ['{"text": "a"}', "[1]", '{"input": 1}'])
def test_custom_call_with_other_arguments(hermes, arguments):
    written = f'<tool_call>{{"name": "patch", "arguments": {arguments}}}</tool_call>'
    (item,) = answer_of(hermes, written)["output"]
    assert json.loads(item["input"]) == json.loads(arguments)


@pytest.mark.parametrize(
    ("written", "statuses"),
    [
        ("Half", ["incomplete"]),
        ("<think>Half", ["incomplete"]),
        ('<tool_call>{"name": "weather", "arguments": {"ci', ["incomplete"]),
        ('Text. <tool_call>{"name": "weather", "arguments": {"ci', ["completed", "incomplete"]),
        ("", []),
    ],
)
def test_cut_off(hermes, written, statuses):
    response = answer_of(hermes, written, FinishReason.LENGTH)
    assert response["status"] == "incomplete"
    assert [item["status"] for item in response["output"]] == statuses


def test_there_is_always_a_message_or_a_call(hermes):
    (reasoning, message) = answer_of(hermes, "<think>Hm.</think>")["output"]
    assert (reasoning["type"], message["content"][0]["text"]) == ("reasoning", "")
    (message,) = answer_of(hermes, "")["output"]
    assert message["status"] == "completed"


def test_logprobs_are_those_of_the_text(plain):
    body = {"model": "m", "input": "hi", "top_logprobs": 1}
    chat, options = decode(json.dumps(body).encode(), ResponseStore())
    answer = ResponseAnswer(chat, options, ResponseStore())
    answer.begin(plain)
    halves = [TokenLogprob(half, -0.5, (Alternative(half, -0.5),)) for half in (b"\xc3", b"\xa9")]
    answer.feed([Started(0, 5, 0, ""), Delta(0, 0, "", 1, (halves[0],))])
    answer.feed([Delta(0, 0, "é", 1, (halves[1],), FinishReason.STOP)])
    (part,) = json.loads(answer.body())["output"][0]["content"]
    assert bytes(byte for token in part["logprobs"] for byte in token["bytes"]).decode() == part["text"] == "é"
    assert len(part["logprobs"][0]["top_logprobs"]) == 1
