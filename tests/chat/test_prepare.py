"""All templates render what an API request may hold; where the collection has a rendering, it is the same."""

from __future__ import annotations

import json
from datetime import datetime
from functools import cache
from typing import Any

import pytest
from jinja2 import Template

from mlx_server_nano.chat.detect import detect
from mlx_server_nano.chat.prepare import Prepared, Traits, prepare, probe
from mlx_server_nano.template import TemplateError, compile_template, render
from mlx_server_nano.types import Message, Role, Tool, ToolCall
from tests.chat.golden import ASSETS, needs_assets

TEMPLATES = ASSETS / "templates"
NAMES = sorted(path.name for path in TEMPLATES.glob("*.jinja")) if TEMPLATES.is_dir() else []
ROWS = [json.loads(line) for line in (TEMPLATES / "renders.jsonl").read_text("utf-8").splitlines()] if NAMES else []

# These put the system message before the last message, if that is the user's.
HIDES_THE_SYSTEM_MESSAGE = dict.fromkeys(
    (
        "mistral-7b-instruct-v0.3-vllm.jinja",
        "mistral-7b-v0.3-vllm-parallel.jinja",
        "mistral-nemo-instruct-2407.jinja",
    ),
    ("Be brief.", "Be friendly."),
)

WEATHER = Tool(
    name="get_weather",
    description="Get the current weather",
    parameters={
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "City name"},
            "days": {"type": "integer", "description": "How many"},
        },
        "required": ["city"],
    },
)
TOKENS: dict[str, Any] = {"bos_token": "<bos>", "eos_token": "<eos>"}


def call(call_id: str, arguments: str) -> ToolCall:
    return ToolCall(id=call_id, name="get_weather", arguments=arguments)


CONVERSATION = [
    Message(role=Role.DEVELOPER, content="Be brief."),
    Message(role=Role.USER, content="Zurich?"),
    Message(role=Role.USER, content="And Bern?"),
    Message(
        role=Role.ASSISTANT,
        reasoning="Two cities.",
        tool_calls=(
            call("call_abcdefghijklmnopqrstuvwx", '{"city": "Zurich", "days": 2}'),
            call("call_bbcdefghijklmnopqrstuvwx", '{"city": "Bern"}'),
        ),
    ),
    Message(role=Role.TOOL, tool_call_id="call_abcdefghijklmnopqrstuvwx", content="21 degrees"),
    Message(role=Role.TOOL, tool_call_id="call_bbcdefghijklmnopqrstuvwx", content="19 degrees"),
    Message(role=Role.ASSISTANT, content="Warm.", reasoning="Easy."),
    Message(role=Role.SYSTEM, content="Be friendly."),
    Message(role=Role.USER, content="Again?"),
    Message(role=Role.ASSISTANT, content="Looking.", tool_calls=(call("functions.get_weather:2", '{"city": "Genf"}'),)),
    Message(role=Role.TOOL, tool_call_id="functions.get_weather:2", content="30 degrees"),
]


@cache
def source(name: str) -> str:
    return (TEMPLATES / name).read_text("utf-8")


@cache
def compiled(name: str) -> Template:
    return compile_template(source(name), lambda: datetime(2025, 8, 1))


@cache
def traits_of(name: str) -> Traits:
    return probe(source(name))


def prepared(name: str, messages: list[Message], tools: list[Tool]) -> tuple[Prepared, str]:
    found = prepare(messages, tools, traits_of(name), detect(source(name)))
    return found, render(compiled(name), found.messages, found.tools, **TOKENS)


@needs_assets
@pytest.mark.parametrize("name", NAMES)
def test_a_conversation_with_tools_renders(name: str) -> None:
    _, text = prepared(name, CONVERSATION, [WEATHER])
    shown = ["Be brief.", "Be friendly.", "Zurich?", "And Bern?", "Again?", "Warm."]
    shown += ["get_weather", "Get the current weather", "City name"]
    shown += ["Zurich", "Bern", "Genf", "21 degrees", "19 degrees", "30 degrees"]
    hidden = HIDES_THE_SYSTEM_MESSAGE.get(name, ())
    assert [part for part in shown if part not in text and part not in hidden] == []
    assert text.index("21 degrees") < text.index("19 degrees") < text.index("30 degrees")
    assert "{'city'" not in text
    assert '{\\"city' not in text


@needs_assets
@pytest.mark.parametrize("name", NAMES)
def test_a_conversation_without_tools_renders(name: str) -> None:
    messages = [m for m in CONVERSATION if m.role is not Role.TOOL and not m.tool_calls]
    _, text = prepared(name, messages, [])
    assert all(part in text for part in ("Be brief.", "Be friendly.", "Zurich?", "And Bern?", "Warm.", "Again?"))


@needs_assets
@pytest.mark.parametrize("name", NAMES)
def test_arguments_that_are_no_object_render(name: str) -> None:
    messages = [CONVERSATION[1], Message(role=Role.ASSISTANT, tool_calls=(call("abcdefgh1", "{oops"),))]
    messages.append(Message(role=Role.TOOL, tool_call_id="abcdefgh1", content="No JSON"))
    assert "oops" in prepared(name, messages, [WEATHER])[1]


def _message(raw: dict[str, Any]) -> Message:
    calls = tuple(
        ToolCall(
            id=c["id"],
            name=c["function"]["name"],
            arguments=a if isinstance(a := c["function"]["arguments"], str) else json.dumps(a, ensure_ascii=False),
        )
        for c in raw.get("tool_calls", ())
    )
    content = raw["content"]
    return Message(
        role=Role(raw["role"]),
        content="".join(part["text"] for part in content) if isinstance(content, list) else content,
        reasoning=raw.get("reasoning_content"),
        tool_calls=calls,
        tool_call_id=raw.get("tool_call_id"),
        name=raw.get("name"),
    )


def _comparable(row: dict[str, Any]) -> bool:
    """A row that transformers renders, and whose messages need no change of words: the templates that don't render tools
    or calls get them as text, the list of parts is flattened, and reasoning comes as a part where that is the only way."""
    traits = traits_of(row["template"])
    if row["error"] is not None or row["case"] == "content_parts":
        return False
    if row["case"] == "reasoning_history" and traits.reasoning_blocks:
        return False
    uses_calls = any("tool_calls" in message for message in row["messages"])
    native = (traits.tools or not row["tools"]) and (traits.calls or not uses_calls)
    # Arguments as JSON text where the template prints an object differently, or the other way round.
    as_text = any(isinstance(c["function"]["arguments"], str) for m in row["messages"] for c in m.get("tool_calls", ()))
    return native and (not uses_calls or as_text == traits.arguments_as_text)


@needs_assets
@pytest.mark.parametrize("name", NAMES)
def test_the_prompt_is_the_one_that_transformers_renders(name: str) -> None:
    rows = [row for row in ROWS if row["template"] == name and _comparable(row)]
    assert rows
    for row in rows:
        tools = [Tool(**tool["function"]) for tool in row["tools"] or ()]
        found = prepare([_message(m) for m in row["messages"]], tools, traits_of(name), detect(source(name)))
        variables = {"bos_token": row["bos_token"], "eos_token": row["eos_token"], **row["extra"], **row["kwargs"]}
        text = render(compiled(name), found.messages, found.tools, **variables)
        if not row["date_dependent"]:
            assert text == row["rendered"], row["case"]


def test_an_answer_is_read_as_hermes_where_the_template_takes_no_tools() -> None:
    traits = Traits(tools=False)
    assert prepare(CONVERSATION, [WEATHER], traits, detect("plain")).format.name == "hermes"
    assert prepare(CONVERSATION, [], traits, detect("plain")).format.name == "plain"


def test_ids_of_nine_characters_match_between_call_and_result() -> None:
    found = prepare(CONVERSATION, [WEATHER], Traits(nine_ids=True), detect("[TOOL_CALLS]"))
    ids = [c["id"] for m in found.messages for c in m.get("tool_calls", ())]
    assert ids == [m["tool_call_id"] for m in found.messages if m["role"] == "tool"]
    assert len(set(ids)) == 3
    assert all(len(i) == 9 and i.isalnum() for i in ids)


def test_results_carry_the_name_of_their_call() -> None:
    found = prepare(CONVERSATION, [WEATHER], Traits(), detect(""))
    assert [m["name"] for m in found.messages if m["role"] == "tool"] == ["get_weather"] * 3


def test_a_template_that_raises_says_so() -> None:
    template = compile_template("{{ raise_exception('only cats') }}")
    with pytest.raises(TemplateError, match="only cats"):
        render(template, [{"role": "user", "content": "dog"}])


def test_a_template_that_fails_is_a_template_error() -> None:
    template = compile_template("{{ messages[0].content + 1 }}")
    with pytest.raises(TemplateError, match="TypeError"):
        render(template, [{"role": "user", "content": "dog"}])


def test_generation_blocks_are_their_body() -> None:
    template = compile_template("{% generation %}{{ messages[0].content }}{% endgeneration %}")
    assert render(template, [{"role": "user", "content": "dog"}]) == "dog"


def test_a_template_reaches_nothing_outside() -> None:
    template = compile_template("{{ messages.__class__.__mro__ }}")
    with pytest.raises(TemplateError):
        render(template, [])
