"""Completions as the official client sees them, scripted."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from mlx_server_nano.errors import QueueFullError, WorkerDiedError
from mlx_server_nano.protocol import Delta, Echo
from mlx_server_nano.types import Alternative, FinishReason, TextPrompt, TokenLogprob, TokenPrompt
from tests.api.conftest import Running, wait_until
from tests.api.fakes import Beat, Forever, Script, started, text


def stream_of(server: Running, **options: Any) -> list[Any]:
    body = {"model": "m", "prompt": "hi", "stream": True, **options}
    response = httpx.post(f"{server.url}/v1/completions", json=body)
    assert response.status_code == 200, response.text
    *events, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def refusal(server: Running, **options: Any) -> tuple[str | None, str]:
    with pytest.raises(openai.BadRequestError) as caught:
        server.client().completions.create(**{"model": "m", "prompt": "hi", **options})
    return caught.value.param, str(caught.value)


def test_whole_answer(server, validate):
    response = server.client().completions.with_raw_response.create(model="m", prompt="Once")
    validate(json.loads(response.content), "CreateCompletionResponse")
    answer = response.parse()
    assert answer.id.startswith("cmpl-")
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason, choice.index, choice.logprobs) == ("Hello", "stop", 0, None)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (7, 2, 9)
    (request,) = server.manager.requests
    assert request.prompt == TextPrompt(text="Once")
    assert (request.max_tokens, request.n, request.echo, request.logprobs) == (16, 1, False, None)


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("abc", [TextPrompt(text="abc")]),
        (["abc", "xyz"], [TextPrompt(text="abc"), TextPrompt(text="xyz")]),
        ([1, 2], [TokenPrompt(ids=(1, 2))]),
        ([[1, 2], [3]], [TokenPrompt(ids=(1, 2)), TokenPrompt(ids=(3,))]),
        (None, [TextPrompt(text="")]),
    ],
)
def test_forms_of_a_prompt(server, prompt, prompts):
    answer = server.client().completions.create(model="m", prompt=prompt)
    assert [request.prompt for request in server.manager.requests] == prompts
    assert [choice.text for choice in answer.choices] == ["Hello"] * len(prompts)


def test_choices_are_prompt_major(server):
    def play(request: Any) -> list[Beat]:
        first = request.first_choice
        return [
            started(),
            *text(f"{request.prompt.text}0", choice=first),
            *text(f"{request.prompt.text}1", choice=first + 1),
        ]

    server.manager.scripts["m"] = Script(play)
    answer = server.client().completions.create(model="m", prompt=["a", "b", "c"], n=2)
    assert [(c.index, c.text) for c in answer.choices] == list(enumerate(["a0", "a1", "b0", "b1", "c0", "c1"]))
    assert answer.usage.prompt_tokens == 21
    chunks = stream_of(server, prompt=["a", "b", "c"], n=2, stream_options={"include_usage": True})
    assert [(c["index"], c["text"]) for chunk in chunks[:-1] for c in chunk["choices"]] == [
        (c.index, c.text) for c in answer.choices
    ]
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["total_tokens"] == 27


def test_stream_chunks(server, validate):
    chunks = stream_of(server)
    for chunk in chunks:
        validate(chunk, "CreateCompletionResponse")
        assert "usage" not in chunk
    assert [(c["choices"][0]["text"], c["choices"][0]["finish_reason"]) for c in chunks] == [
        ("Hel", None),
        ("lo", "stop"),
    ]
    assert len({(c["id"], c["created"]) for c in chunks}) == 1


def token(text: bytes, logprob: float, *others: tuple[bytes, float]) -> TokenLogprob:
    return TokenLogprob(text, logprob, tuple(Alternative(*other) for other in others))


def echoing(request: Any) -> list[Beat]:
    """The prompt `<s>aé`, the answer `€!`; é and € come in two and three tokens."""
    scored = (token(b"a", -1.0, (b"b", -0.5)), token(b"\xc3", -2.0), token(b"\xa9", -3.0))
    answer = (
        token(b"\xe2\x82", -0.1, (b"\xe2\x82", -0.1)),
        token(b"\xac", -0.2),
        token(b"!", float("-inf"), (b"?", -0.3)),
    )
    echo = Echo(0, request.first_choice, "aé", b"<s>", scored) if request.echo else None
    return [
        [*started(), *([echo] if echo else [])],
        [Delta(0, request.first_choice, "€", 2, answer[:2])],
        [Delta(0, request.first_choice, "!", 1, answer[2:], FinishReason.LENGTH)],
    ]


@pytest.mark.parametrize("echo", [False, True])
def test_logprobs(server, validate, echo):
    server.manager.scripts["m"] = Script(echoing)
    response = server.client().completions.with_raw_response.create(model="m", prompt=["x", "y"], logprobs=1, echo=echo)
    body = json.loads(response.content)
    validate(body, "CreateCompletionResponse")
    tokens = ["bytes:\\xe2\\x82", "bytes:\\xac", "!"]
    values: list[Any] = [-0.1, -0.2, -9999.0]
    top: list[Any] = [{tokens[0]: -0.1}, {tokens[1]: -0.2}, {"?": -0.3, "!": -9999.0}]
    offsets = [0, 0, 1]
    if echo:
        tokens = ["<s>", "a", "bytes:\\xc3", "bytes:\\xa9", *tokens]
        values = [None, -1.0, -2.0, -3.0, *values]
        top = [None, {"b": -0.5, "a": -1.0}, {"bytes:\\xc3": -2.0}, {"bytes:\\xa9": -3.0}, *top]
        offsets = [0, 0, 1, 1, 2, 2, 3]
    expected = {"tokens": tokens, "token_logprobs": values, "top_logprobs": top, "text_offset": offsets}
    for choice in body["choices"]:
        assert choice["logprobs"] == expected
        assert choice["text"] == ("aé€!" if echo else "€!")
    assert list(body["choices"][0]["logprobs"]["top_logprobs"][-1]) == ["?", "!"]

    chunks = stream_of(server, prompt=["x", "y"], logprobs=1, echo=echo)
    for index in range(2):
        parts = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert "".join(part["text"] for part in parts) == body["choices"][index]["text"]
        for key, value in expected.items():
            assert [entry for part in parts for entry in part["logprobs"][key]] == value


def test_offsets_of_a_tokenizer_that_puts_a_space_in_front(server):
    echo = Echo(0, 0, "ab cd", b"<s>", (token(b" ab", -1.0), token(b" cd", -1.0)))
    server.manager.scripts["m"] = Script(lambda _: [[*started(), echo, Delta(0, 0, "", 0, (), FinishReason.LENGTH)]])
    answer = server.client().completions.create(model="m", prompt="ab cd", echo=True, logprobs=0, max_tokens=0)
    assert answer.choices[0].text == "ab cd"
    assert answer.choices[0].logprobs.text_offset == [0, 0, 2]
    assert server.manager.requests[0].max_tokens == 0


def test_best_of_ranks_by_mean_logprob(server):
    likelihoods = [[-1.0, -1.0], [-0.2], [], [-0.6, -0.6, -0.6]]

    def play(request: Any) -> list[Beat]:
        beats: list[Beat] = [started()]
        for choice, values in enumerate(likelihoods, request.first_choice):
            logprobs = tuple(token(b"x", value) for value in values)
            beats.append([Delta(0, choice, f"c{choice}", len(values), logprobs, FinishReason.STOP)])
        return beats

    server.manager.scripts["m"] = Script(play)
    answer = server.client().completions.create(model="m", prompt=["a", "b"], n=2, best_of=4)
    assert [(c.index, c.text, c.logprobs) for c in answer.choices] == [
        (0, "c1", None),
        (1, "c3", None),
        (2, "c5", None),
        (3, "c7", None),
    ]
    assert answer.usage.completion_tokens == 12
    assert [(r.n, r.logprobs, r.first_choice) for r in server.manager.requests] == [(4, 0, 0), (4, 0, 4)]


def test_suffix(server):
    special = {"<|fim_prefix|>": 1, "<|fim_suffix|>": 2, "<|fim_middle|>": 3}
    server.manager.scripts["m"] = Script(special_tokens=special)
    server.client().completions.create(model="m", prompt="def f(", suffix="): pass", stop="\n")
    (request,) = server.manager.requests
    assert request.prompt == TextPrompt(text="<|fim_prefix|>def f(<|fim_suffix|>): pass<|fim_middle|>")
    assert request.stop[0] == "\n" and "<|file_sep|>" in request.stop


def test_suffix_without_tokens_for_it(server):
    param, message = refusal(server, suffix="x")
    assert param == "suffix" and "filling in" in message
    assert server.manager.requests == []


def test_an_empty_suffix_asks_for_nothing(server):
    server.client().completions.create(model="m", prompt="a", suffix="")
    assert server.manager.requests[0].prompt == TextPrompt(text="a")


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt.0"),
        ({"prompt": ["a", 1]}, "prompt.1"),
        ({"prompt": [1, "a"]}, "prompt.1"),
        ({"prompt": [[1], "a"]}, "prompt.1"),
        ({"prompt": [-1]}, "prompt.0"),
        ({"prompt": ["a"] * 2049}, "prompt"),
        ({"prompt": {}}, "prompt"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"logprobs": 6}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"n": 0}, "n"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"best_of": 21}, "best_of"),
        ({"prompt": ["x"] * 103, "best_of": 20}, "best_of"),
        ({"prompt": ["x"] * 17, "n": 128}, "n"),
        ({"stop": "x" * 1025}, "stop"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"suffix": "a", "echo": True}, "suffix"),
        ({"suffix": "a", "prompt": [1]}, "suffix"),
        ({"temperature": 3}, "temperature"),
    ],
)
def test_refused_requests(server, options, param):
    assert refusal(server, **options)[0] == param


def test_nulls_are_defaults(server):
    fields = "max_tokens n best_of logprobs echo suffix stream stream_options user temperature stop seed logit_bias"
    body = {"model": "m", "prompt": "a"}
    given = {**body, **dict.fromkeys(fields.split())}
    assert httpx.post(f"{server.url}/v1/completions", json=given).status_code == 200
    assert httpx.post(f"{server.url}/v1/completions", json=body).status_code == 200
    assert server.manager.requests[0] == server.manager.requests[1]


def test_all_of_a_request_is_cancelled(server):
    server.manager.scripts["m"] = Script(lambda request: [started(), Forever])
    connection = server.post({"model": "m", "prompt": ["a", "b"]}, "/v1/completions")
    wait_until(lambda: len(server.manager.requests) == 2)
    connection.close()
    wait_until(lambda: len(server.manager.cancelled) == 2)


def test_errors(server):
    server.manager.scripts["m"] = Script(refusal=QueueFullError("full"))
    with pytest.raises(openai.RateLimitError):
        server.client().completions.create(model="m", prompt="a")
    server.manager.scripts["m"] = Script(
        lambda request: [started(), *text("Hel", finish=None), WorkerDiedError("it died")]
    )
    with pytest.raises(openai.APIError, match="it died"):
        list(server.client().completions.create(model="m", prompt="a", stream=True))
