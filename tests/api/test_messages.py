"""Anthropic's messages as the official client sees them, against the real app on a real socket."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest

from mlx_server_nano.errors import (
    ContextLengthError,
    ModelAccessError,
    QueueFullError,
    UnavailableError,
    WorkerDiedError,
)
from mlx_server_nano.protocol import Delta, Event, Measured, Started
from mlx_server_nano.types import FinishReason, Measure
from tests.api.conftest import HERMES, Running, read_until
from tests.api.fakes import Beat, Forever, Script, started, text

HI: Any = [{"role": "user", "content": "hi"}]
ASK: Any = {"model": "m", "max_tokens": 100, "messages": HI}
WEATHER: Any = {
    "name": "weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALL = 'Rome it is.</think>On it.<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'


@pytest.fixture(scope="module")
def connections() -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url="http://localhost", api_key="x", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
def client(connections: anthropic.Anthropic, server: Running) -> anthropic.Anthropic:
    return connections.with_options(base_url=server.url)


def post(server: Running, body: object = ASK, path: str = "", **headers: str) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/messages{path}", json=body, headers=headers)


def events_of(data: str) -> list[dict[str, Any]]:
    """The events of a stream as they were on the wire; their names are those in their data."""
    *events, rest = data.split("\n\n")
    assert rest == ""
    found = []
    for event in events:
        name, body = event.split("\n")
        found.append(json.loads(body.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def stream_of(server: Running, **options: Any) -> list[dict[str, Any]]:
    response = post(server, {**ASK, "stream": True, **options}, "?beta=true")
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return events_of(response.text)


def pieces(whole: str) -> list[Beat]:
    """An answer in pieces of three characters."""
    return text(*(whole[i : i + 3] for i in range(0, len(whole), 3)))


def calling(whole: str = CALL) -> Script:
    return Script(lambda request: [[Started(0, 7, 3, "<think>")], *pieces(whole)], template=HERMES)


def test_whole_answer(server, client):
    response = client.messages.with_raw_response.create(**ASK)
    body = response.http_response.json()
    assert body.pop("id").startswith("msg_")
    assert body == {
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 4,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 3,
            "output_tokens": 2,
            "output_tokens_details": {"thinking_tokens": 0},
        },
    }
    assert response.headers["request-id"] == response.headers["x-request-id"]
    assert response.parse()._request_id == response.headers["request-id"]
    assert server.manager.requests[0].max_tokens == 100


def test_stream_events(server):
    start, *rest = stream_of(server)
    usage = {"input_tokens": 4, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 3}
    message = start["message"]
    assert message.pop("id").startswith("msg_")
    assert message.pop("usage").items() >= usage.items()
    assert message == {
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }
    assert rest == [
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hel"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "lo"}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {**usage, "output_tokens": 2, "output_tokens_details": {"thinking_tokens": 0}},
        },
        {"type": "message_stop"},
    ]


def test_stream_of_thinking_and_a_call(server):
    server.manager.scripts["m"] = calling()
    events = stream_of(server, tools=[WEATHER])
    starts = [event["content_block"] for event in events if event["type"] == "content_block_start"]
    call_id = starts[2].pop("id")
    assert call_id.startswith("toolu_")
    assert starts == [
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "text", "text": ""},
        {"type": "tool_use", "name": "weather", "input": {}},
    ]
    order = [(event["type"], event["index"]) for event in events if "index" in event]
    assert order == sorted(order, key=lambda item: item[1]), "one block at a time"
    for index in range(3):
        own = [kind for kind, at in order if at == index]
        assert own == ["content_block_start", *["content_block_delta"] * (len(own) - 2), "content_block_stop"]
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(delta.get("thinking", "") for delta in deltas) == "Rome it is."
    assert "".join(delta.get("text", "") for delta in deltas) == "On it."
    assert json.loads("".join(delta.get("partial_json", "") for delta in deltas)) == {"city": "Rome"}
    assert [delta["type"] for delta in deltas].count("signature_delta") == 1
    assert events[-2]["delta"]["stop_reason"] == "tool_use"
    assert events[-2]["usage"]["output_tokens_details"]["thinking_tokens"] > 0


def test_streaming_helpers(server, client):
    server.manager.scripts["m"] = calling()
    with client.messages.stream(**ASK, tools=[WEATHER]) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_message()
    assert {"thinking", "signature", "text", "input_json"} <= set(kinds)
    whole = client.messages.create(**ASK, tools=[WEATHER])
    ours = {"id", "content"}
    assert message.model_dump(exclude=ours) == whole.model_dump(exclude=ours)
    for one, other in zip(message.content, whole.content, strict=True):
        assert one.to_dict() | {"id": ""} == other.to_dict() | {"id": ""}


def test_async_client(server):
    async def ask() -> str:
        options: Any = {"api_key": "x", "max_retries": 0, "timeout": 60}
        async with anthropic.AsyncAnthropic(base_url=server.url, **options) as client:
            assert (await client.messages.create(**ASK)).content[0].to_dict() == {"type": "text", "text": "Hello"}
            async with client.messages.stream(**ASK) as stream:
                return "".join([text async for text in stream.text_stream])

    assert asyncio.run(ask()) == "Hello"


def test_tool_loop(server, client):
    server.manager.scripts["m"] = calling()
    messages = [*HI]
    answer = client.messages.create(**{**ASK, "messages": messages}, tools=[WEATHER])
    assert answer.stop_reason == "tool_use"
    thought, said, call = answer.content
    assert (thought.type, said.type, call.type) == ("thinking", "text", "tool_use")
    assert (call.name, call.input) == ("weather", {"city": "Rome"})
    messages.append({"role": "assistant", "content": answer.content})
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "Sunny."}]}
    messages.append({"role": "user", "content": [result, {"type": "text", "text": "Thanks!"}]})
    server.manager.scripts["m"] = Script(lambda request: [started(), *text("Sun", "ny.")], template=HERMES)
    last = client.messages.create(**{**ASK, "messages": messages}, tools=[WEATHER])
    assert (last.content[0].text, last.stop_reason) == ("Sunny.", "end_turn")
    user, assistant, tool, thanks = server.manager.requests[1].prompt.messages
    assert (user["content"], assistant["content"], thanks["content"]) == ("hi", "On it.", "Thanks!")
    assert assistant["reasoning_content"] == "Rome it is."
    assert assistant["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Rome"}}
    assert (tool["role"], tool["content"]) == ("tool", "Sunny.")
    assert tool["tool_call_id"] == assistant["tool_calls"][0]["id"] == call.id


@pytest.mark.parametrize("stream", [False, True])
def test_omitted_thinking_comes_back(server, client, stream):
    """Its text stays away from the client, and the model has it again in the next turn."""
    server.manager.scripts["m"] = calling()
    thinking: Any = {"type": "adaptive", "display": "omitted"}
    if stream:
        with client.messages.stream(**ASK, thinking=thinking, tools=[WEATHER]) as events:
            answer: Any = events.get_final_message()
    else:
        answer = client.messages.create(**ASK, thinking=thinking, tools=[WEATHER])
    assert (answer.content[0].type, answer.content[0].thinking) == ("thinking", "")
    assert answer.usage.output_tokens_details.thinking_tokens > 0
    messages = [*HI, {"role": "assistant", "content": answer.content}, *HI]
    client.messages.create(**{**ASK, "messages": messages}, tools=[WEATHER])
    assert server.manager.requests[1].prompt.messages[1]["reasoning_content"] == "Rome it is."


@pytest.mark.parametrize(
    ("finish", "stop", "tokens", "reason"),
    [
        (FinishReason.STOP, None, 5, "end_turn"),
        (FinishReason.STOP, "END", 5, "stop_sequence"),
        (FinishReason.LENGTH, None, 100, "max_tokens"),
        (FinishReason.LENGTH, None, 50, "model_context_window_exceeded"),
    ],
)
def test_stop_reasons(server, client, finish, stop, tokens, reason):
    end: list[Event] = [Delta(0, 0, "Hi", tokens, finish=finish, stop=stop)]
    server.manager.scripts["m"] = Script(lambda request: [started(), end])
    answer = client.messages.create(**ASK, stop_sequences=["END", "FIN"])
    assert (answer.stop_reason, answer.stop_sequence) == (reason, stop)
    assert server.manager.requests[0].stop == ("END", "FIN")
    assert stream_of(server)[-2]["delta"] == {"stop_reason": reason, "stop_sequence": stop}


def test_a_call_cut_short(server, client):
    server.manager.scripts["m"] = calling(CALL[:-25])
    call = client.messages.create(**ASK, tools=[WEATHER]).content[-1]
    assert call.input == {"INVALID_JSON": '{"ci'}


def test_empty_answer(server, client):
    server.manager.scripts["m"] = Script(lambda request: [started(), *text("")])
    assert client.messages.create(**ASK).content == []
    assert [event["type"] for event in stream_of(server)] == ["message_start", "message_delta", "message_stop"]


def test_count_tokens(server, client):
    server.manager.scripts["m"] = Script(lambda question: [[Measured(0, 12)]])
    count = client.messages.count_tokens(model="m", messages=HI, system="Be kind.", tools=[WEATHER])
    assert count.input_tokens == 12
    (question,) = server.manager.requests
    assert isinstance(question, Measure), "nothing is generated"
    prompt: Any = question.request.prompt
    assert "Be kind." in prompt.messages[0]["content"]


def test_pings(start):
    server = start(keepalive_interval=0.05)
    server.manager.scripts["m"] = Script(lambda request: [started(), Forever])
    ping = b'event: ping\ndata: {"type":"ping"}\n\n'
    connection = server.post({**ASK, "stream": True}, "/v1/messages")
    with connection:
        data = read_until(connection, ping)
        while data.count(ping) < 3:
            data += connection.recv(65536)
    assert b": keep-alive" not in data


ERRORS: Any = [
    (UnavailableError("later"), 529, anthropic.OverloadedError, "overloaded_error"),
    (ContextLengthError("5 > 4", param="messages"), 400, anthropic.BadRequestError, "invalid_request_error"),
    (ModelAccessError("gated"), 403, anthropic.PermissionDeniedError, "permission_error"),
    (QueueFullError("full"), 429, anthropic.RateLimitError, "rate_limit_error"),
    (WorkerDiedError("died"), 500, anthropic.InternalServerError, "api_error"),
    (RuntimeError("secret"), 500, anthropic.InternalServerError, "api_error"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("error", "status", "kind", "name"), ERRORS)
def test_errors(server, client, error, status, kind, name, stream):
    server.manager.scripts["m"] = Script(lambda request: [started(), error])
    with pytest.raises(kind) as caught:
        client.messages.create(**ASK, stream=stream)
    body: Any = caught.value.body
    assert caught.value.status_code == status
    assert body.keys() == {"type", "error", "request_id"}
    assert body["error"].keys() == {"type", "message"}
    assert (body["type"], body["error"]["type"]) == ("error", name)
    assert body["request_id"] == caught.value.response.headers["request-id"]
    assert "secret" not in body["error"]["message"]
    assert body["error"]["message"].startswith("prompt is too long: ") is isinstance(error, ContextLengthError)


def test_other_errors_speak_the_dialect_too(start):
    server = start(api_key=("k",), max_body=1000)
    for key in ({"x-api-key": "k"}, {"authorization": "Bearer k"}):
        assert post(server, **key, **{"anthropic-version": "2023-06-01", "anthropic-beta": "a,b"}).status_code == 200
    kinds = {
        "authentication_error": post(server),
        "request_too_large": post(server, {"x": "x" * 1000}, **{"x-api-key": "k"}),
        "not_found_error": post(server, {**ASK, "model": "nope"}, **{"x-api-key": "k"}),
        "invalid_request_error": post(server, {}, **{"x-api-key": "k"}),
    }
    for kind, response in kinds.items():
        assert response.json()["error"]["type"] == kind
    assert httpx.get(f"{server.url}/v1/messages/nope", headers={"x-api-key": "k"}).json()["type"] == "error"
    assert "error" in httpx.get(f"{server.url}/v1/messagesnope", headers={"x-api-key": "k"}).json()


def test_death_in_mid_stream(server, client):
    server.manager.scripts["m"] = Script(
        lambda request: [started(), *text("Hel", finish=None), WorkerDiedError("Dead.")]
    )
    heard = []
    with (
        pytest.raises(anthropic.APIStatusError) as caught,
        client.messages.stream(**ASK) as stream,
    ):
        heard += [event.type for event in stream]
    body: Any = caught.value.body
    assert body["error"] == {"type": "api_error", "message": "Dead."}
    assert events_of(post(server, {**ASK, "stream": True}).text)[-1]["type"] == "error"
