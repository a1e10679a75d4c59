"""Chat completions as the official client sees them, against the real app on a real socket."""

import json
from typing import Any

import httpx
import openai
import pytest

from mlx_server_nano.errors import (
    ContextLengthError,
    ModelLoadError,
    QueueFullError,
    UnavailableError,
    WorkerDiedError,
)
from mlx_server_nano.protocol import Delta
from mlx_server_nano.types import Alternative, FinishReason, TokenLogprob
from tests.api.conftest import HERMES, Running
from tests.api.fakes import Script, started, text

HI: Any = [{"role": "user", "content": "hi"}]


def stream_of(server: Running, **options: Any) -> list[Any]:
    """All chunks of a stream as they were on the wire."""
    body = {"model": "m", "messages": HI, "stream": True, **options}
    response = httpx.post(f"{server.url}/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def test_whole_answer(server, validate):
    response = server.client().chat.completions.with_raw_response.create(model="m", messages=HI, temperature=0)
    body = json.loads(response.content)
    validate(body, "CreateChatCompletionResponse")
    answer = response.parse()
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == "m"
    (choice,) = answer.choices
    assert (choice.message.content, choice.finish_reason) == ("Hello", "stop")
    assert body["choices"][0]["message"]["refusal"] is None
    assert body["choices"][0]["logprobs"] is None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (7, 2, 9)
    assert answer.usage.prompt_tokens_details.cached_tokens == 3
    assert answer.usage.completion_tokens_details.reasoning_tokens == 0
    assert server.manager.requests[0].sampling.temperature == 0


def test_stream_chunks(server, validate):
    chunks = stream_of(server)
    for chunk in chunks:
        validate(chunk, "CreateChatCompletionStreamResponse")
        assert "usage" not in chunk
    assert len({(c["id"], c["created"], c["model"], c["object"]) for c in chunks}) == 1
    choices = [c["choices"][0] for c in chunks]
    assert [c["delta"] for c in choices] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "Hel"},
        {"content": "lo"},
        {},
    ]
    assert [c["finish_reason"] for c in choices] == [None, None, None, "stop"]


def test_stream_usage(server, validate):
    *others, last = stream_of(server, stream_options={"include_usage": True})
    validate(last, "CreateChatCompletionStreamResponse")
    assert all(chunk["usage"] is None for chunk in others)
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 9
    assert last["id"] == others[0]["id"]


def test_ids_are_unique(server):
    assert stream_of(server)[0]["id"] != stream_of(server)[0]["id"]


def test_choices_interleave(server):
    def play(request):
        return [
            started(),
            [Delta(0, 1, "b", 1), Delta(0, 0, "a", 1)],
            [Delta(0, 0, "A", 1, finish=FinishReason.LENGTH)],
            [Delta(0, 1, "B", 1, finish=FinishReason.STOP)],
        ]

    server.manager.scripts["m"] = Script(play)
    chunks = stream_of(server, n=2)
    seen: dict[int, list[Any]] = {0: [], 1: []}
    for chunk in chunks:
        (choice,) = chunk["choices"]
        seen[choice["index"]].append((choice["delta"].get("content"), choice["finish_reason"]))
    assert seen == {
        0: [("", None), ("a", None), ("A", None), (None, "length")],
        1: [("", None), ("b", None), ("B", None), (None, "stop")],
    }
    answer = server.client().chat.completions.create(model="m", messages=HI, n=2)
    assert [(c.index, c.message.content, c.finish_reason) for c in answer.choices] == [
        (0, "aA", "length"),
        (1, "bB", "stop"),
    ]


def test_client_accumulates_a_stream(server):
    with server.client().chat.completions.stream(model="m", messages=HI, n=2, logprobs=False) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert [choice.message.content for choice in final.choices] == ["Hello", "Hello"]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_async_client(server):
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x") as client:
        answer = await client.chat.completions.create(model="m", messages=HI)
        stream: Any = await client.chat.completions.create(model="m", messages=HI, stream=True)
        streamed = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert answer.choices[0].message.content == "".join(streamed) == "Hello"


def test_logprobs(server, validate):
    halves = (
        TokenLogprob(b"\xc3", -0.25, (Alternative(b"\xc3", -0.25), Alternative(b"x", float("-inf")))),
        TokenLogprob(b"\xa9", -0.5, (Alternative(b"\xa9", -0.5),)),
    )
    server.manager.scripts["m"] = Script(
        lambda request: [
            started(),
            [Delta(0, 0, "", 1, halves[:1])],
            [Delta(0, 0, "é", 1, halves[1:], finish=FinishReason.STOP)],
        ]
    )
    response = server.client().chat.completions.with_raw_response.create(
        model="m", messages=HI, logprobs=True, top_logprobs=2
    )
    validate(json.loads(response.content), "CreateChatCompletionResponse")
    logprobs = response.parse().choices[0].logprobs
    assert bytes(b for token in logprobs.content for b in token.bytes).decode() == "é"
    assert [token.token for token in logprobs.content] == ["\ufffd", "\ufffd"]
    assert logprobs.content[0].top_logprobs[1].logprob == -9999
    assert server.manager.requests[0].logprobs == 2

    chunks = stream_of(server, logprobs=True, top_logprobs=2)
    for chunk in chunks:
        validate(chunk, "CreateChatCompletionStreamResponse")
    streamed = [t for c in chunks if (lp := c["choices"][0]["logprobs"]) for t in lp["content"]]
    assert streamed == json.loads(response.content)["choices"][0]["logprobs"]["content"]
    assert chunks[-1]["choices"][0]["logprobs"] is None


def test_logprobs_without_alternatives(server):
    server.manager.scripts["m"] = Script(
        lambda request: [started(), [Delta(0, 0, "a", 1, (TokenLogprob(b"a", -1.0),), finish=FinishReason.STOP)]]
    )
    answer = server.client().chat.completions.create(model="m", messages=HI, logprobs=True)
    assert answer.choices[0].logprobs.content[0].top_logprobs == []
    assert server.manager.requests[0].logprobs == 0


def test_empty_answer(server):
    server.manager.scripts["m"] = Script(lambda request: [started(), *text("")])
    assert server.client().chat.completions.create(model="m", messages=HI).choices[0].message.content == ""
    assert [c["choices"][0]["delta"].get("content") for c in stream_of(server)] == ["", None]


EARLY = [
    (UnavailableError("later"), openai.InternalServerError, 503, "unavailable"),
    (ContextLengthError("5 > 4", param="messages"), openai.BadRequestError, 400, "context_length_exceeded"),
    (QueueFullError("full"), openai.RateLimitError, 429, "queue_full"),
    (ModelLoadError("broken"), openai.InternalServerError, 500, "model_load_failed"),
    (RuntimeError("secret"), openai.InternalServerError, 500, None),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("where", ["opening", "generate", "before the first text"])
@pytest.mark.parametrize(("error", "kind", "status", "code"), EARLY)
def test_early_errors_have_their_status(server, stream, where, error, kind, status, code):
    server.manager.scripts["m"] = {
        "opening": Script(opening=[error]),
        "generate": Script(refusal=error),
        "before the first text": Script(lambda request: [started(), error]),
    }[where]
    with pytest.raises(kind) as caught:
        server.client().chat.completions.create(model="m", messages=HI, stream=stream)
    assert caught.value.status_code == status
    assert caught.value.code == code
    assert caught.value.body.keys() == {"message", "type", "param", "code"}
    assert "secret" not in caught.value.message
    if error.__class__ in (QueueFullError, UnavailableError):
        assert int(caught.value.response.headers["retry-after"]) >= 1


@pytest.mark.parametrize("stream", [False, True])
def test_unknown_model(server, stream):
    with pytest.raises(openai.NotFoundError) as caught:
        server.client().chat.completions.create(model="nope", messages=HI, stream=stream)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("error", "code"), [(WorkerDiedError("The worker died."), "worker_died"), (KeyError("secret"), None)]
)
def test_death_in_mid_stream(server, error, code):
    server.manager.scripts["m"] = Script(lambda request: [started(), *text("Hel", finish=None), error])
    heard = []
    with pytest.raises(openai.APIError) as caught:
        for chunk in server.client().chat.completions.create(model="m", messages=HI, stream=True):
            heard.append(chunk.choices[0].delta.content)
    assert heard == ["", "Hel"]
    assert caught.value.code == code
    assert "secret" not in str(caught.value)
    with pytest.raises(openai.InternalServerError):
        server.client().chat.completions.create(model="m", messages=HI)
    assert server.client().models.list().data, "the server goes on"


def test_custom_tool(server, validate):
    """As the Responses API has it: the model calls a function with one string, the client sees a call with a text."""
    written = '<tool_call>\n{"name": "patch", "arguments": {"input": "*** a\\nb"}}\n</tool_call>'
    server.manager.scripts["m"] = Script(lambda request: [started(), *text(*written)], template=HERMES)
    tools: Any = [{"type": "custom", "custom": {"name": "patch"}}]
    given: Any = {"model": "m", "messages": HI, "tools": tools}
    (call,) = server.client().chat.completions.create(**given).choices[0].message.tool_calls
    assert (call.type, call.custom.name, call.custom.input) == ("custom", "patch", "*** a\nb")
    chunks = list(server.client().chat.completions.create(**given, stream=True))
    streamed = [piece.to_dict() for chunk in chunks for piece in chunk.choices[0].delta.tool_calls or []]
    first, *rest = streamed
    assert (first["type"], first["custom"]) == ("custom", {"name": "patch", "input": ""})
    assert rest == [{"index": 0, "custom": {"input": "*** a\nb"}}]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    history: Any = [*HI, {"role": "assistant", "tool_calls": [call.to_dict()]}]
    history.append({"role": "tool", "tool_call_id": call.id, "content": "done"})
    server.client().chat.completions.create(**given | {"messages": history})
    told = server.manager.requests[-1].prompt.messages
    assert told[1]["tool_calls"][0]["function"] == {"name": "patch", "arguments": {"input": "*** a\nb"}}
