"""A streamed answer says what the whole one says, whatever the events."""

import json

from hypothesis import given
from hypothesis import strategies as st

from mlx_server_nano.api.chat_response import ChatAnswer, ChatStream
from mlx_server_nano.errors import WorkerDiedError
from mlx_server_nano.protocol import Delta, Started
from mlx_server_nano.types import Alternative, ChatPrompt, FinishReason, GenerationRequest, TokenLogprob

texts = st.text(max_size=4)
tokens = st.builds(TokenLogprob, st.binary(max_size=3), st.floats(max_value=0), st.just((Alternative(b"x", -1.0),)))


@st.composite
def generations(draw):
    """A request and its events in steps: choices end at different times and in any order."""
    n = draw(st.integers(1, 3))
    with_logprobs = draw(st.booleans())
    events = []
    for choice in range(n):
        deltas = [
            Delta(
                0,
                choice,
                text,
                draw(st.integers(0, 3)),
                tuple(draw(st.lists(tokens, max_size=2))) if with_logprobs else (),
            )
            for text in draw(st.lists(texts, max_size=4))
        ]
        deltas.append(Delta(0, choice, draw(texts), 1, (), draw(st.sampled_from(FinishReason))))
        events.append(deltas)
    order = draw(st.permutations([choice for choice, deltas in enumerate(events) for _ in deltas]))
    merged = [Started(0, draw(st.integers(0, 9)), 0, ""), *(events[choice].pop(0) for choice in order)]
    cuts = sorted(draw(st.lists(st.integers(0, len(merged)), max_size=4)))
    steps = [merged[a:b] for a, b in zip([0, *cuts], [*cuts, len(merged)], strict=True)]
    return GenerationRequest(prompt=ChatPrompt(messages=()), n=n, logprobs=1 if with_logprobs else None), steps


@given(generations(), st.booleans())
def test_stream_and_answer_agree(validate, generation, include_usage):
    request, steps = generation
    answer, stream = ChatAnswer("ö", request), ChatStream("ö", request, include_usage=include_usage)
    data = b""
    for step in steps:
        answer.feed(step)
        data += stream.feed(step)
    whole = json.loads(answer.body())
    validate(whole, "CreateChatCompletionResponse")

    *events, done, rest = (data + stream.end()).decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    for chunk in chunks:
        validate(chunk, "CreateChatCompletionStreamResponse")
    usage = chunks.pop()["usage"] if include_usage else whole["usage"]
    assert usage == whole["usage"]
    for choice in whole["choices"]:
        own = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        assert [c["delta"].get("role") for c in own] == ["assistant", *[None] * (len(own) - 1)]
        assert "".join(c["delta"].get("content", "") for c in own) == choice["message"]["content"]
        assert [c["finish_reason"] for c in own] == [*[None] * (len(own) - 1), choice["finish_reason"]]
        assert own[-1]["delta"] == {}
        logprobs = [token for c in own if c["logprobs"] for token in c["logprobs"]["content"]]
        assert logprobs == (choice["logprobs"]["content"] if choice["logprobs"] else [])


def test_failure():
    stream = ChatStream("m", GenerationRequest(prompt=ChatPrompt(messages=())), include_usage=True)
    event = stream.fail(WorkerDiedError("The worker died."))
    assert event.endswith(b"\n\n")
    assert json.loads(event.removeprefix(b"data: ")) == {
        "error": {"message": "The worker died.", "type": "server_error", "param": None, "code": "worker_died"}
    }
