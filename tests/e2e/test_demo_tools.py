"""Real tool loops: the built-in model asks for tools that these tests run, and answers from what they return."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import anthropic
import pytest

from tests.e2e.conftest import PATIENCE, ServerProcess

PARAMETERS: Final[Mapping[str, dict[str, Any]]] = {
    "get_weather": {"city": {"type": "string"}},
    "set_timer": {"minutes": {"type": "integer"}},
    "set_light": {"room": {"type": "string", "enum": ["kitchen", "bedroom", "hall"]}, "on": {"type": "boolean"}},
    "archive_invoice": {"number": {"type": "integer"}},
}
DESCRIPTIONS: Final = {
    "get_weather": "Get the weather in a city.",
    "set_timer": "Start a timer.",
    "set_light": "Switch the light of a room.",
    "archive_invoice": "Archive an invoice.",
}
TEMPERATURES: Final = {"Lisbon": 31, "Oslo": -7}
# What the tools return depends on what they are called with.
FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "get_weather": lambda city: {"temperature": TEMPERATURES[city], "condition": "sunny"},
    "set_timer": lambda minutes: {"status": "ok", "total": 60 * minutes},
    "set_light": lambda room, on: {"status": "ok"},
}
BOTH: Final = ("get_weather", "set_timer")
WEATHER: Final = "What is the weather in Lisbon?"
TIMER: Final = {"type": "function", "function": {"name": "set_timer"}}

Calls = list[tuple[str, dict[str, Any]]]


def schema(name: str) -> dict[str, Any]:
    properties = PARAMETERS[name]
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def tools(*names: str, **more: Any) -> list[Any]:
    functions = [{"name": n, "description": DESCRIPTIONS[n], "parameters": schema(n), **more} for n in names]
    return [{"type": "function", "function": function} for function in functions]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def run(name: str, arguments: str) -> str:
    return json.dumps(FUNCTIONS[name](**json.loads(arguments)))


def complete(server: ServerProcess, messages: list[Any], *, streamed: bool = False, **more: Any) -> Any:
    """The answer's one choice; streamed: put together by the SDK's own helper."""
    given = {"model": "demo", "messages": messages, "reasoning_effort": "none", "max_tokens": 300, **more}
    if not streamed:
        return server.client.chat.completions.create(**given).choices[0]
    with server.client.chat.completions.stream(**given) as stream:
        return stream.get_final_completion().choices[0]


def calls_of(choice: Any) -> Calls:
    called = choice.message.tool_calls or ()
    assert choice.finish_reason == ("tool_calls" if called else "stop")
    return [(call.function.name, json.loads(call.function.arguments)) for call in called]


def loop(server: ServerProcess, messages: list[Any], **more: Any) -> tuple[Calls, str]:
    """What agents do: run what is called, hand in the results, until there is an answer. `messages` grows."""
    called: Calls = []
    for _ in range(3):
        choice = complete(server, messages, **more)
        messages.append(choice.message.model_dump(exclude_none=True, include={"role", "content", "tool_calls"}))
        if not calls_of(choice):
            return called, choice.message.content
        called += calls_of(choice)
        for call in choice.message.tool_calls:
            result = run(call.function.name, call.function.arguments)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    raise AssertionError(f"no end: {called}")


@pytest.mark.parametrize(("streamed", "effort"), [(False, "none"), (True, "medium")])
def test_ask_call_result_answer(demo, streamed, effort):
    messages: list[Any] = [user(WEATHER)]
    offered = {"tools": tools(*BOTH), "streamed": streamed, "reasoning_effort": effort}
    called, answer = loop(demo, messages, **offered)
    assert called == [("get_weather", {"city": "Lisbon"})]
    assert "31" in answer and "sunny" in answer
    messages.append(user("Set a timer for 12 minutes."))
    called, answer = loop(demo, messages, **offered)
    assert called == [("set_timer", {"minutes": 12})]
    assert "720" in answer


def test_parallel_calls(demo):
    asked = "Please check the weather in Oslo and set a timer for 5 minutes"
    called, answer = loop(demo, [user(asked)], tools=tools(*BOTH), streamed=True)
    assert called == [("get_weather", {"city": "Oslo"}), ("set_timer", {"minutes": 5})]
    assert "-7" in answer and "300" in answer
    one = complete(demo, [user(asked)], tools=tools(*BOTH), parallel_tool_calls=False)
    assert calls_of(one) == [("get_weather", {"city": "Oslo"})]


def test_one_tool_twice(demo):
    called, answer = loop(demo, [user("What is the weather in Lisbon and in Oslo?")], tools=tools(*BOTH))
    assert called == [("get_weather", {"city": "Lisbon"}), ("get_weather", {"city": "Oslo"})]
    assert "31" in answer and "-7" in answer


def test_no_call_where_none_fits(demo):
    choice = complete(demo, [user("Hello!")], tools=tools("archive_invoice"))
    assert (calls_of(choice), choice.message.content) == ([], "Hello! How can I help you?")


def test_the_choice_among_tools(demo):
    def ask(text: str, choice: Any, **more: Any) -> Any:
        offered: Any = {"tools": tools(*BOTH), "tool_choice": choice, "parallel_tool_calls": False}
        return complete(demo, [user(text)], **offered, **more)

    assert calls_of(ask(WEATHER, "required")) == [("get_weather", {"city": "Lisbon"})]
    assert not ask(WEATHER, "none", max_tokens=8).message.tool_calls
    only = {"mode": "required", "tools": [TIMER]}
    for choice in (TIMER, {"type": "allowed_tools", "allowed_tools": only}):
        made = ask("Please check the weather in Oslo and set a timer for 5 minutes", choice, streamed=True)
        ((name, given),) = calls_of(made)
        assert name == "set_timer" and isinstance(given["minutes"], int)


def test_strict_tools_hold_the_model_to_the_schema(demo):
    offered: Any = {"tools": tools("set_light", strict=True)}
    called, answer = loop(demo, [user("Turn on the light in the kitchen.")], **offered)
    assert (called, answer) == ([("set_light", {"room": "kitchen", "on": True})], "Done.")
    asked = [user("Turn on the light in the garage.")]  # which the schema does not have
    ((name, given),) = calls_of(complete(demo, asked, tool_choice="required", parallel_tool_calls=False, **offered))
    assert name == "set_light" and given["on"] is True and given["room"] in ("kitchen", "bedroom", "hall")


@pytest.mark.parametrize(
    ("streamed", "thinking"), [(False, {"type": "disabled"}), (True, {"type": "enabled", "budget_tokens": 1024})]
)
def test_anthropics_loop(demo, streamed, thinking):
    offered: Any = [{"name": n, "description": DESCRIPTIONS[n], "input_schema": schema(n)} for n in BOTH]
    messages: list[Any] = [user("What is the weather in Oslo?")]
    given = {"model": "demo", "max_tokens": 2000, "tools": offered, "thinking": thinking}
    with anthropic.Anthropic(base_url=demo.url, api_key="x", max_retries=0, timeout=PATIENCE) as client:

        def answer() -> anthropic.types.Message:
            if not streamed:
                return client.messages.create(messages=messages, **given)
            with client.messages.stream(messages=messages, **given) as stream:
                return stream.get_final_message()

        made = answer()
        assert made.stop_reason == "tool_use"
        assert [block.type for block in made.content] == ["thinking"] * (thinking["type"] == "enabled") + ["tool_use"]
        call: Any = made.content[-1]
        assert (call.name, call.input) == ("get_weather", {"city": "Oslo"})
        result = {"type": "tool_result", "tool_use_id": call.id, "content": run(call.name, json.dumps(call.input))}
        messages += [{"role": "assistant", "content": made.content}, {"role": "user", "content": [result]}]
        made = answer()
    said: Any = made.content[-1]
    assert made.stop_reason == "end_turn" and "-7" in said.text and "sunny" in said.text


def test_the_responses_loop(demo):
    offered: Any = [
        {"type": "function", "name": n, "description": DESCRIPTIONS[n], "parameters": schema(n), "strict": True}
        for n in BOTH
    ]
    given: Any = {"model": "demo", "tools": offered, "reasoning": {"effort": "none"}}
    first = demo.client.responses.create(input="What is the weather in Oslo?", **given)
    (call,) = [item for item in first.output if item.type == "function_call"]
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Oslo"})
    output = {"type": "function_call_output", "call_id": call.call_id, "output": run(call.name, call.arguments)}
    second = demo.client.responses.create(input=[output], previous_response_id=first.id, **given)
    assert "-7" in second.output_text
