"""The Responses API as the official client sees it, against the real app on a real socket."""

import json
import logging
import threading
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from mlx_server_nano.errors import ContextLengthError, QueueFullError, WorkerDiedError
from mlx_server_nano.types import FinishReason, Measure, Role
from tests.api.conftest import HERMES, Running
from tests.api.fakes import Script, started, text

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": None,
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
PATCH: Any = {"type": "custom", "name": "patch", "description": "Edits a file."}


def says(*pieces: str, finish: FinishReason = FinishReason.STOP, template: str = HERMES) -> Script:
    return Script(lambda request: [started(), *text(*pieces, finish=finish)], template=template)


def call(name: str, arguments: dict) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def events_of(server: Running, **options: Any) -> list[dict]:
    """All events of a stream as they were on the wire."""
    response = httpx.post(f"{server.url}/v1/responses", json={"model": "m", "input": "hi", "stream": True, **options})
    assert response.status_code == 200, response.text
    *parts, rest = response.text.split("\n\n")
    assert rest == ""
    events = []
    for part in parts:
        name, data = part.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def prompt_of(server: Running) -> list[dict]:
    prompt: Any = server.manager.requests[-1].prompt
    return [dict(message) for message in prompt.messages]


def test_whole_response(server, validate):
    raw = server.client().responses.with_raw_response.create(model="m", input="hi", temperature=0, metadata={"a": "b"})
    body = json.loads(raw.content)
    validate(body, "Response")
    response = raw.parse()
    assert (response.output_text, response.status, response.error) == ("Hello", "completed", None)
    assert response.completed_at >= response.created_at
    assert [(item.type, item.role, item.status) for item in response.output] == [("message", "assistant", "completed")]
    assert body["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 9,
    }
    assert prompt_of(server) == [{"role": "user", "content": "hi"}]


def test_every_field_is_echoed(server):
    body = httpx.post(f"{server.url}/v1/responses", json={"model": "m", "input": "hi"}).json()
    for name in ("id", "created_at", "completed_at", "output", "usage"):
        del body[name]
    assert body == {
        "object": "response",
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "background": False,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "metadata": {},
        "model": "m",
        "parallel_tool_calls": True,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
    }
    given = {
        "instructions": "Be brief.",
        "max_output_tokens": 16,
        "max_tool_calls": 3,
        "metadata": {"a": "b"},
        "parallel_tool_calls": False,
        "presence_penalty": 1.0,
        "frequency_penalty": -1.0,
        "prompt_cache_key": "k",
        "reasoning": {"effort": "low", "summary": "auto"},
        "safety_identifier": "s",
        "store": False,
        "temperature": 0.5,
        "text": {"format": {"type": "json_object"}, "verbosity": "low"},
        "tool_choice": {"type": "function", "name": "weather"},
        "tools": [{key: value for key, value in WEATHER.items() if value is not None}],
        "top_logprobs": 2,
        "top_p": 0.5,
        "user": "u",
    }
    server.manager.scripts["m"] = says("{}")
    body = httpx.post(f"{server.url}/v1/responses", json={"model": "m", "input": "hi", **given}).json()
    assert {name: body[name] for name in given} == given


def test_stream_of_text(server, validate):
    events = events_of(server)
    for event in events:
        validate(event, "ResponseStreamEvent")
    assert [event["type"] for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    first, last = events[0]["response"], events[-1]["response"]
    assert (first["usage"], first["output"], first["status"]) == (None, [], "in_progress")
    assert first["id"] == last["id"]
    assert last["output"] == [events[-2]["item"]]
    assert {event["item_id"] for event in events if "item_id" in event} == {last["output"][0]["id"]}
    assert last["usage"]["total_tokens"] == 9


def test_client_accumulates_a_stream(server):
    with server.client().responses.stream(model="m", input="hi") as stream:
        heard = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(heard) == final.output_text == "Hello"


class City(BaseModel):
    city: str


def test_parse(server):
    server.manager.scripts["m"] = says('{"city": ', '"Rome"}')
    response = server.client().responses.parse(model="m", input="hi", text_format=City)
    assert response.output_parsed == City(city="Rome")
    (request,) = server.manager.requests
    assert '"city"' in request.constraint.grammar
    assert request.constraint.param == "text.format"
    with server.client().responses.stream(model="m", input="hi", text_format=City) as stream:
        assert stream.get_final_response().output_parsed == City(city="Rome")


@pytest.mark.parametrize("stored", [True, False])
def test_tool_loop(server, stored):
    def play(request):
        answered = any(message["role"] == "tool" for message in request.prompt.messages)
        say = ["It is ", "21°."] if answered else ["<think>Look it ", "up.</think>", call("weather", {"city": "Rome"})]
        return [started(), *text(*say)]

    server.manager.scripts["m"] = Script(play, template=HERMES)
    client = server.client()
    question: Any = {"role": "user", "content": [{"type": "input_text", "text": "Weather in Rome?"}]}
    first = client.responses.create(model="m", input=[question], tools=[WEATHER], store=stored)
    assert [item.type for item in first.output] == ["reasoning", "function_call"]
    reasoning, asked = first.output
    assert reasoning.content[0].text == "Look it up."
    assert (asked.name, json.loads(asked.arguments)) == ("weather", {"city": "Rome"})
    assert asked.id != asked.call_id
    result: Any = {"type": "function_call_output", "call_id": asked.call_id, "output": "21"}
    if stored:
        second = client.responses.create(model="m", input=[result], tools=[WEATHER], previous_response_id=first.id)
    else:
        items: Any = [question, *(item.to_dict() for item in first.output), result]
        second = client.responses.create(model="m", input=items, tools=[WEATHER], store=False)
    assert second.output_text == "It is 21°."
    user, assistant, tool = prompt_of(server)
    assert user["content"] == "Weather in Rome?"
    assert assistant["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Rome"}}
    assert assistant["reasoning_content"] == "Look it up."
    assert tool["content"] == "21"


def test_custom_tool(server, validate):
    server.manager.scripts["m"] = says(
        '<tool_call>{"name": "patch", "arguments": {"input": "*** a', '\\nb"}}</tool_call>'
    )
    events = events_of(server, tools=[PATCH])
    for event in events:
        validate(event, "ResponseStreamEvent")
    (item,) = events[-1]["response"]["output"]
    assert (item["type"], item["name"], item["input"]) == ("custom_tool_call", "patch", "*** a\nb")
    deltas = [event["delta"] for event in events if event["type"] == "response.custom_tool_call_input.delta"]
    assert "".join(deltas) == item["input"]
    result = {
        "type": "custom_tool_call_output",
        "call_id": item["call_id"],
        "output": [{"type": "input_text", "text": "ok"}],
    }
    server.client().responses.create(model="m", input=[{"role": "user", "content": "hi"}, item, result], tools=[PATCH])
    _, assistant, tool = prompt_of(server)
    assert assistant["tool_calls"][0]["function"]["arguments"] == {"input": "*** a\nb"}
    assert tool["content"] == "ok"


def test_stopped_by_length(server, validate):
    server.manager.scripts["m"] = says("Hel", "lo", finish=FinishReason.LENGTH)
    response = server.client().responses.create(model="m", input="hi", max_output_tokens=16)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert response.output[0].status == "incomplete"
    assert response.output_text == "Hello"
    last = events_of(server)[-1]
    validate(last, "ResponseStreamEvent")
    assert last["type"] == "response.incomplete"
    assert last["response"]["completed_at"] is None
    assert last["response"]["usage"]["output_tokens"] == 2


@pytest.mark.parametrize("error", [WorkerDiedError("The worker died."), KeyError("secret")])
def test_death_in_mid_stream(server, validate, error):
    server.manager.scripts["m"] = Script(lambda request: [started(), *text("Hel", finish=None), error])
    events = events_of(server)
    for event in events:
        validate(event, "ResponseStreamEvent")
    assert events[-1]["type"] == "response.failed"
    failed = events[-1]["response"]
    assert failed["status"] == "failed"
    assert failed["error"]["code"] == "server_error"
    assert "secret" not in json.dumps(events)
    assert (failed["output"][0]["status"], failed["output"][0]["content"][0]["text"]) == ("incomplete", "Hel")
    assert server.client().responses.retrieve(failed["id"]).status == "failed"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "kind"),
    [(ContextLengthError("5 > 4"), openai.BadRequestError), (QueueFullError("full"), openai.RateLimitError)],
)
def test_early_errors_have_their_status(server, stream, error, kind):
    server.manager.scripts["m"] = Script(lambda request: [error])
    with pytest.raises(kind) as caught:
        server.client().responses.create(model="m", input="hi", stream=stream)
    assert caught.value.code == error.code


def test_keep_alive_is_typed(start, validate):
    server = start(keepalive_interval=0.05)
    loaded, prefilled = threading.Event(), threading.Event()
    server.manager.scripts["m"] = Script(lambda request: [started(), prefilled, *text("Hello")], opening=[loaded])
    seen = []
    with server.client().responses.create(model="m", input="hi", stream=True) as stream:
        for event in stream:
            seen.append(event)
            if len(seen) == 4:
                loaded.set()
            if len(seen) == 8:
                prefilled.set()
    assert [event.type for event in seen[:8]] == ["response.created", *["response.in_progress"] * 7]
    assert seen[-1].type == "response.completed"
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    for event in seen[:8]:
        validate(event.to_dict(), "ResponseStreamEvent")


def test_failure_after_a_keep_alive(start):
    server = start(keepalive_interval=0.05)
    go_on = threading.Event()
    server.manager.scripts["m"] = Script(opening=[go_on, ContextLengthError("5 > 4")])
    with server.client().responses.create(model="m", input="hi", stream=True) as stream:
        events = []
        for event in stream:
            events.append(event)
            go_on.set()
    assert events[0].type == "response.created"
    assert events[-1].type == "response.failed"
    assert events[-1].response.error.code == "context_length_exceeded"


def test_kept_response(server, validate):
    client = server.client()
    response = client.responses.create(model="m", input="hi", instructions="Be brief.")
    assert client.responses.retrieve(response.id) == response
    raw = client.responses.input_items.with_raw_response.list(response.id)
    body = json.loads(raw.content)
    validate(body, "ResponseItemList")
    assert [item["content"] for item in body["data"]] == [[{"type": "input_text", "text": "hi"}]]
    with pytest.raises(openai.BadRequestError, match="nothing to cancel"):
        client.responses.cancel(response.id)
    with pytest.raises(openai.BadRequestError):
        client.responses.retrieve(response.id, stream=True)
    deleted = httpx.delete(f"{server.url}/v1/responses/{response.id}")
    assert deleted.json() == {"id": response.id, "object": "response", "deleted": True}
    for ask in (
        client.responses.retrieve,
        client.responses.delete,
        client.responses.cancel,
        client.responses.input_items.list,
    ):
        with pytest.raises(openai.NotFoundError):
            ask(response.id)


def test_input_items_in_pages(server):
    items: Any = [
        {"role": "user", "content": "a", "id": "msg_a"},
        {"type": "function_call", "id": "fc_b", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "id": "fco_c", "call_id": "1", "output": "r"},
    ]
    client = server.client()
    response = client.responses.create(model="m", input=items)
    path = f"{server.url}/v1/responses/{response.id}/input_items"
    assert [item.id for item in client.responses.input_items.list(response.id)] == ["fco_c", "fc_b", "msg_a"]
    page = httpx.get(path, params={"order": "asc", "limit": 2}).json()
    assert ([item["id"] for item in page["data"]], page["has_more"]) == (["msg_a", "fc_b"], True)
    assert (page["first_id"], page["last_id"]) == ("msg_a", "fc_b")
    rest = httpx.get(path, params={"order": "asc", "after": "fc_b"}).json()
    assert ([item["id"] for item in rest["data"]], rest["has_more"]) == (["fco_c"], False)
    limits = [{"limit": limit} for limit in ("0", "101", "x", "-1", "9" * 5000)]
    for query in ({"order": "up"}, *limits, {"after": "nope"}):
        answer = httpx.get(path, params=query)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, next(iter(query)))


def test_instructions_do_not_carry_over(server):
    client = server.client()
    first = client.responses.create(model="m", input="one", instructions="Old.")
    second = client.responses.create(model="m", input="two", instructions="New.", previous_response_id=first.id)
    client.responses.create(model="m", input="three", previous_response_id=second.id)
    assert [(message["role"], message["content"]) for message in prompt_of(server)] == [
        ("user", "one"),
        ("assistant", "Hello"),
        ("user", "two"),
        ("assistant", "Hello"),
        ("user", "three"),
    ]


def test_not_stored(server):
    client = server.client()
    response = client.responses.create(model="m", input="hi", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.create(model="m", input="hi", previous_response_id=response.id)
    assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")


def test_item_references(server):
    client = server.client()
    first = client.responses.create(model="m", input=[{"role": "user", "content": "one", "id": "msg_1"}])
    items: Any = [
        {"type": "item_reference", "id": "msg_1"},
        {"id": first.output[0].id},
        {"role": "user", "content": "two"},
    ]
    client.responses.create(model="m", input=items)
    assert [message["content"] for message in prompt_of(server)] == ["one", "Hello", "two"]
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.create(model="m", input=[{"type": "item_reference", "id": "msg_9"}])
    assert caught.value.param == "input.0.id"


def test_input_tokens(server):
    raw = server.client().responses.input_tokens.with_raw_response.count(model="m", input="hi", tools=[WEATHER])
    assert json.loads(raw.content) == {"object": "response.input_tokens", "input_tokens": 7}
    assert isinstance(server.manager.requests[-1], Measure), "nothing is generated"


def test_what_codex_sends(server, validate, caplog):
    """The shape of a second turn of Codex 0.169, which must not be refused for the tools that it lists unasked."""
    server.manager.scripts["m"] = says("<think>Hm.</think>", "Done.")
    body = {
        "instructions": "You are an agent.",
        "input": [
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Sandbox."}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "List."}]},
            {"type": "reasoning", "summary": [], "content": None, "encrypted_content": "gAAAA"},
            {
                "type": "function_call",
                "id": "fc_1",
                "name": "shell",
                "arguments": '{"cmd":"ls"}',
                "call_id": "call_1",
                "status": "completed",
            },
            {"type": "function_call_output", "call_id": "call_1", "output": "a.txt"},
        ],
        "tools": [
            {
                "type": "function",
                "name": "shell",
                "description": "Runs.",
                "strict": False,
                "parameters": {"type": "object", "properties": {"cmd": {"type": "string"}}},
            },
            {"type": "namespace", "name": "multi", "description": "d", "tools": [{"type": "function", "name": "x"}]},
            {"type": "web_search", "external_web_access": False},
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "x",
        "client_metadata": {"a": "b"},
    }
    with caplog.at_level(logging.DEBUG, "mlx_server_nano.api.responses_tools"):
        events = events_of(server, **body)
    for event in events:
        validate(event, "ResponseStreamEvent")
    assert [r.getMessage() for r in caplog.records if r.name.endswith("responses_tools")] == [
        "Ignoring tools that the server does not have: namespace, web_search"
    ]
    assert events[-1]["type"] == "response.completed"
    assert [tool["function"]["name"] for tool in server.manager.requests[0].prompt.tools] == ["shell"]
    reasoning, message = events[-1]["response"]["output"]
    assert reasoning["summary"] == [{"type": "summary_text", "text": "Hm."}]
    assert message["content"][0]["text"] == "Done."
    # It keeps only the sealed text of the reasoning.
    sealed = {"type": "reasoning", "summary": [], "encrypted_content": reasoning["encrypted_content"]}
    events_of(server, input=[{"role": "user", "content": "a"}, sealed, message, {"role": "user", "content": "b"}])
    assert prompt_of(server)[1]["reasoning_content"] == "Hm."


def test_logprobs_only_if_asked(server):
    client = server.client()
    client.responses.create(model="m", input="hi", include=["message.output_text.logprobs"])
    client.responses.create(model="m", input="hi", top_logprobs=3)
    client.responses.create(model="m", input="hi")
    assert [request.logprobs for request in server.manager.requests] == [0, 3, None]


def test_roles_reach_the_template(server):
    items: Any = [{"role": role, "content": role} for role in ("system", "developer", "user", "assistant")]
    server.client().responses.create(model="m", input=items)
    assert [m["content"] for m in prompt_of(server)][-2:] == [Role.USER, Role.ASSISTANT]


def test_truncation(server):
    """The worker is told what it may leave out: the gateway knows of no tokens."""
    items: Any = [{"role": role, "content": role} for role in ("user", "assistant", "user")]
    given: Any = {"model": "m", "input": items, "instructions": "Be kind."}
    assert server.client().responses.create(**given, truncation="auto").truncation == "auto"
    assert server.client().responses.create(**given).truncation == "disabled"
    told, silent = (request.prompt.droppable for request in server.manager.requests)
    assert (told, silent) == (((1,), (2,)), ())
