import json
from typing import Any

import pytest

from mlx_server_nano.api.chat_request import ChatOptions, decode
from mlx_server_nano.api.sampling import MAX_LOGIT_BIAS_ENTRIES
from mlx_server_nano.config import Settings
from mlx_server_nano.errors import InvalidRequestError, UnsupportedParameterError
from mlx_server_nano.types import ChatPrompt, GenerationRequest, Message, Role, Sampling

MESSAGES = [{"role": "user", "content": "hi"}]
SETTINGS = Settings()


def decoded(**fields: Any) -> tuple[GenerationRequest, ChatOptions]:
    return decode(json.dumps({"model": "m", "messages": MESSAGES, **fields}).encode(), SETTINGS)


def test_defaults():
    request, options = decoded()
    assert request == GenerationRequest(prompt=ChatPrompt(messages=(Message(role=Role.USER, content="hi"),)))
    assert (options.model, options.stream, options.include_usage) == ("m", False, False)


OPTIONAL = [
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias",
    "seed", "stop", "max_tokens", "max_completion_tokens", "n", "logprobs", "top_logprobs", "stream", "stream_options",
    "reasoning_effort", "chat_template_kwargs", "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call",
    "response_format", "modalities", "audio", "prediction", "web_search_options", "user", "metadata", "store",
    "service_tier", "prompt_cache_key", "safety_identifier", "verbosity",
]  # fmt: skip


@pytest.mark.parametrize("name", OPTIONAL)
def test_null_means_default(name):
    assert decoded(**{name: None}) == decoded()


def test_everything_arrives():
    request, options = decoded(
        temperature=0.5, top_p=0.9, top_k=40, min_p=0.1, repetition_penalty=1.1, presence_penalty=-2, frequency_penalty=2,
        logit_bias={"5": -100, "7": 1.5}, seed=-1, stop=["a", "b"], max_tokens=5, n=3, logprobs=True, top_logprobs=4,
        stream=True, stream_options={"include_usage": True}, user="u", metadata={"a": "b"}, store=True,
        service_tier="auto", unknown={"x": [1]},
    )  # fmt: skip
    assert request.sampling == Sampling(
        temperature=0.5, top_p=0.9, top_k=40, min_p=0.1, repetition_penalty=1.1, presence_penalty=-2, frequency_penalty=2,
        logit_bias={5: -100, 7: 1.5}, seed=-1,
    )  # fmt: skip
    assert (request.stop, request.max_tokens, request.n, request.logprobs) == (("a", "b"), 5, 3, 4)
    assert (options.stream, options.include_usage) == (True, True)


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"max_tokens": 5, "max_completion_tokens": 7}, "max_tokens", 7),
        ({"max_tokens": 5, "max_completion_tokens": None}, "max_tokens", 5),
        ({"stop": "x"}, "stop", ("x",)),
        ({"logprobs": True}, "logprobs", 0),
        ({"logprobs": False}, "logprobs", None),
        ({"n": 128}, "n", 128),
        ({"stream_options": {}, "stream": True}, "n", 1),
        ({"stream_options": {"include_usage": None, "include_obfuscation": False}, "stream": True}, "n", 1),
    ],
)
def test_request_fields(fields, name, value):
    assert getattr(decoded(**fields)[0], name) == value


def test_the_operator_bounds_those_who_name_no_limit():
    body = json.dumps({"model": "m", "messages": MESSAGES}).encode()
    assert decode(body, Settings(default_max_tokens=9))[0].max_tokens == 9


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0), ("temperature", 2), ("top_p", 0), ("top_p", 1), ("top_k", 0), ("min_p", 1),
        ("repetition_penalty", 2), ("presence_penalty", -2), ("seed", 2**63 - 1), ("seed", -(2**63)),
    ],
)  # fmt: skip
def test_ends_of_ranges(name, value):
    assert getattr(decoded(**{name: value})[0].sampling, name) == value


def test_top_k_off():
    assert decoded(top_k=-1)[0].sampling.top_k == 0


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"), ({"model": None}, "model"), ({"model": 5}, "model"),
        ({"messages": []}, "messages"), ({"messages": "hi"}, "messages"), ({"messages": [5]}, "messages.0"),
        ({"temperature": 2.1}, "temperature"), ({"temperature": -0.1}, "temperature"), ({"temperature": "1"}, "temperature"),
        ({"temperature": True}, "temperature"), ({"top_p": 1.01}, "top_p"), ({"top_k": -2}, "top_k"), ({"top_k": 1.5}, "top_k"),
        ({"min_p": -1}, "min_p"), ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"repetition_penalty": 2.5}, "repetition_penalty"), ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"), ({"seed": 2**63}, "seed"), ({"seed": "1"}, "seed"),
        ({"seed": 1.5}, "seed"), ({"n": 0}, "n"), ({"n": 129}, "n"), ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"), ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"stop": []}, "stop"), ({"stop": ""}, "stop"), ({"stop": ["a", ""]}, "stop.1"), ({"stop": ["a", 5]}, "stop.1"),
        ({"stop": list("abcde")}, "stop"), ({"stop": {"a": 1}}, "stop"),
        ({"logit_bias": {"x": 1}}, "logit_bias"), ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logit_bias": {"9" * 30: 1}}, "logit_bias"), ({"logit_bias": [1]}, "logit_bias"),
        ({"logit_bias": {str(i): 1 for i in range(MAX_LOGIT_BIAS_ENTRIES + 1)}}, "logit_bias"),
        ({"logprobs": 5}, "logprobs"), ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"), ({"top_logprobs": 0}, "top_logprobs"),
        ({"logprobs": False, "top_logprobs": 1}, "top_logprobs"),
        ({"stream": "yes"}, "stream"), ({"stream_options": {}}, "stream_options"),
        ({"stream": False, "stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"reasoning_effort": "extreme"}, "reasoning_effort"), ({"service_tier": "x"}, "service_tier"),
        ({"verbosity": "x"}, "verbosity"), ({"user": 5}, "user"), ({"metadata": []}, "metadata"), ({"store": "x"}, "store"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
        ({"chat_template_kwargs": {"a": 2**70}}, "chat_template_kwargs"),
        ({"parallel_tool_calls": "x"}, "parallel_tool_calls"),
    ],
)  # fmt: skip
def test_bad_fields(fields, param):
    with pytest.raises(InvalidRequestError) as caught:
        decoded(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_required(missing):
    body = {"model": "m", "messages": MESSAGES}
    del body[missing]
    with pytest.raises(InvalidRequestError) as caught:
        decode(json.dumps(body).encode(), SETTINGS)
    assert caught.value.param == missing


TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [TOOL]), ("tools", 5), ("tool_choice", "auto"), ("tool_choice", "required"), ("functions", [{"name": "f"}]),
        ("function_call", "auto"), ("response_format", {"type": "json_object"}), ("response_format", "text"),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "x"}}), ("modalities", ["text", "audio"]),
        ("audio", {"voice": "x", "format": "wav"}), ("prediction", {"type": "content", "content": "x"}),
        ("web_search_options", {}),
    ],
)  # fmt: skip
def test_refused_not_ignored(name, value):
    with pytest.raises(UnsupportedParameterError) as caught:
        decoded(**{name: value})
    assert caught.value.param == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", []), ("tool_choice", "none"), ("functions", []), ("function_call", "none"), ("modalities", ["text"]),
        ("response_format", {"type": "text"}), ("parallel_tool_calls", False), ("parallel_tool_calls", True),
    ],
)  # fmt: skip
def test_what_asks_for_nothing_is_accepted(name, value):
    assert decoded(**{name: value}) == decoded()


@pytest.mark.parametrize(
    ("fields", "kwargs"),
    [
        ({"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
        ({"reasoning_effort": "none"}, {"enable_thinking": False}),
        ({"chat_template_kwargs": {"enable_thinking": True, "x": [1]}}, {"enable_thinking": True, "x": [1]}),
        ({"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}}, {"enable_thinking": True}),
    ],
)
def test_template_kwargs(fields, kwargs):
    prompt = decoded(**fields)[0].prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.template_kwargs == kwargs
