import json
from typing import Any

import pytest

from mlx_server_nano.api.chat_request import ChatOptions, decode
from mlx_server_nano.api.sampling import MAX_LOGIT_BIAS_ENTRIES
from mlx_server_nano.chat.request import AnswerFormat, CallMode, ChatRequest, Thinking, ToolChoice
from mlx_server_nano.errors import InvalidRequestError, UnsupportedParameterError
from mlx_server_nano.types import Message, Role, Sampling, Tool

MESSAGES = [{"role": "user", "content": "hi"}]


def decoded(**fields: Any) -> tuple[ChatRequest, ChatOptions]:
    return decode(json.dumps({"model": "m", "messages": MESSAGES, **fields}).encode())


def test_defaults():
    request, options = decoded()
    assert request == ChatRequest(messages=(Message(role=Role.USER, content="hi"),))
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
    assert decode(body)[0].max_tokens is None, "the operator's default is filled in with the lease"


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
        decode(json.dumps(body).encode())
    assert caught.value.param == missing


TOOL = {"type": "function", "function": {"name": "f"}}
NAMED = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("functions", [{"name": "f"}]), ("function_call", "auto"), ("modalities", ["text", "audio"]),
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
        ("tools", []), ("functions", []), ("function_call", "none"), ("modalities", ["text"]),
        ("response_format", {"type": "text"}), ("parallel_tool_calls", True),
    ],
)  # fmt: skip
def test_what_asks_for_nothing_is_accepted(name, value):
    assert decoded(**{name: value}) == decoded()


@pytest.mark.parametrize(
    ("fields", "choice"),
    [
        ({}, ToolChoice()),
        ({"parallel_tool_calls": False}, ToolChoice(parallel=False)),
        ({"tool_choice": "none"}, ToolChoice(mode=CallMode.NONE)),
        ({"tool_choice": "auto"}, ToolChoice()),
        ({"tool_choice": "required"}, ToolChoice(mode=CallMode.REQUIRED)),
        ({"tool_choice": NAMED}, ToolChoice(mode=CallMode.REQUIRED, only=frozenset("f"))),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]}}},
            ToolChoice(only=frozenset("f")),
        ),
    ],
)
def test_tool_choice(fields, choice):
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}
    request = decoded(tools=[tool], **fields)[0]
    assert request.tools == (Tool(name="f", parameters={"type": "object"}, strict=True),)
    assert request.choice == choice


CUSTOM: Any = {"type": "custom", "custom": {"name": "g", "description": "Runs it."}}


@pytest.mark.parametrize(
    ("choice", "decoded_choice"),
    [
        (None, ToolChoice()),
        ({"type": "custom", "custom": {"name": "g"}}, ToolChoice(mode=CallMode.REQUIRED, only=frozenset("g"))),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [{"type": "custom", "custom": {"name": "g"}}]},
            },
            ToolChoice(mode=CallMode.REQUIRED, only=frozenset("g")),
        ),
    ],
)
def test_custom_tools(choice, decoded_choice):
    request = decoded(tools=[TOOL, CUSTOM], tool_choice=choice)[0]
    assert (request.custom, request.choice) == (frozenset("g"), decoded_choice)
    function, custom = request.tools
    assert (function.name, custom.name, custom.description) == ("f", "g", "Runs it.")
    assert custom.parameters is not None and custom.parameters["required"] == ["input"]


def test_a_custom_tools_grammar_is_told_to_the_model():
    grammar = {"type": "grammar", "grammar": {"syntax": "regex", "definition": "[0-9]+"}}
    tool = {"type": "custom", "custom": {"name": "g", "description": "Adds.", "format": grammar}}
    (told,) = decoded(tools=[tool])[0].tools
    assert told.description == "Adds.\n\nThe input must follow this regex grammar:\n[0-9]+"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "custom"}]}, "tools.0.custom"), ({"tools": [CUSTOM, CUSTOM]}, "tools.1.custom.name"),
        (
            {"tools": [{"type": "custom", "custom": {"name": "g", "format": {"type": "grammar"}}}]},
            "tools.0.custom.format.grammar",
        ),
        ({"tools": [CUSTOM], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice.function.name"),
        ({"tools": [CUSTOM], "tool_choice": {"type": "custom", "custom": {"name": "f"}}}, "tool_choice.custom.name"),
        ({"tools": [CUSTOM], "tool_choice": {"type": "custom"}}, "tool_choice.custom"),
        ({"tools": [CUSTOM], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools"),
        ({"tools": 5}, "tools"), ({"tools": [5]}, "tools.0"), ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"), ({"tools": [TOOL, TOOL]}, "tools.1.function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": 1}}]}, "tools.0.function.parameters"),
        ({"tool_choice": "auto"}, "tool_choice"), ({"tool_choice": NAMED}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice.function.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice.function"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}},
            "tool_choice.allowed_tools.tools",
        ),
        ({"response_format": "text"}, "response_format"), ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}, "response_format.json_schema.name"),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex"),
        ({"thinking_budget": -1}, "thinking_budget"),
    ],
)  # fmt: skip
def test_bad_tools_and_formats(fields, param):
    with pytest.raises(InvalidRequestError) as caught:
        decoded(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"response_format": {"type": "json_object"}}, AnswerFormat(param="response_format")),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}}},
            AnswerFormat(param="response_format", schema={"type": "array"}),
        ),
        ({"guided_regex": "a+"}, AnswerFormat(param="guided_regex", regex="a+")),
        ({"guided_grammar": "start: /a/"}, AnswerFormat(param="guided_grammar", grammar="start: /a/")),
    ],
)
def test_answer_formats(fields, answer):
    assert decoded(**fields)[0].answer == answer


@pytest.mark.parametrize(
    ("fields", "thinking", "kwargs"),
    [
        ({"reasoning_effort": "high"}, Thinking(effort="high"), {}),
        ({"reasoning_effort": "none"}, Thinking(enabled=False), {}),
        ({"thinking_budget": 5}, Thinking(budget=5), {}),
        (
            {"chat_template_kwargs": {"enable_thinking": True, "x": [1]}},
            Thinking(),
            {"enable_thinking": True, "x": [1]},
        ),
    ],
)
def test_thinking(fields, thinking, kwargs):
    request = decoded(**fields)[0]
    assert (request.thinking, request.template_kwargs) == (thinking, kwargs)
