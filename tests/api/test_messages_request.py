"""What becomes of a request of Anthropic's dialect."""

import json
from typing import Any

import pytest

from mlx_server_nano.api.messages_request import decode, decode_prompt
from mlx_server_nano.api.messages_thinking import recall, sign
from mlx_server_nano.chat.request import AnswerFormat, CallMode, ChatRequest, Thinking, ToolChoice
from mlx_server_nano.errors import InvalidRequestError
from mlx_server_nano.types import Message, Role, Sampling, Tool, ToolCall

HI: Any = [{"role": "user", "content": "hi"}]
TOOL: Any = {"name": "f", "input_schema": {"type": "object"}}


def decoded(**fields: Any) -> ChatRequest:
    return decode(json.dumps({"model": "m", "max_tokens": 9, "messages": HI, **fields}).encode())[0]


def messages_of(*messages: Any, **fields: Any) -> list[Message]:
    return list(decoded(messages=messages, **fields).messages)


def text(*texts: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}} for text in texts]


def user(content: str) -> Message:
    return Message(role=Role.USER, content=content)


def result(call_id: str = "c", **fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, **fields}


def test_sampling():
    request = decoded(temperature=0.5, top_p=0.9, top_k=40, stop_sequences=["a", "b"])
    assert request.sampling == Sampling(temperature=0.5, top_p=0.9, top_k=40)
    assert (request.max_tokens, request.stop, request.n) == (9, ("a", "b"), 1)


def test_what_is_accepted_without_effect():
    """As Claude Code sends it, and more."""
    plain = decoded()
    assert plain == decoded(
        metadata={"user_id": "u"}, cache_control={"type": "ephemeral"}, context_management={"edits": []}, betas=["x"],
        service_tier="auto", inference_geo=None, speed="fast", mcp_servers=[], container=None, thread=None, unheard_of=1,
        temperature=None, tools=None, tool_choice=None, thinking=None, output_config={}, stop_sequences=[], system=None,
    )  # fmt: skip


def test_claude_codes_second_turn():
    """Its shape, as Claude Code 2.1.197 sends it."""
    ephemeral = {"type": "ephemeral"}
    call = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "ls"}}
    answer = [{"type": "thinking", "thinking": "Hm.", "signature": sign("Hm.")}, *text("Listing."), call]
    back = {
        "tool_use_id": "toolu_1",
        "type": "tool_result",
        "content": "a b",
        "is_error": False,
        "cache_control": ephemeral,
    }
    request = decoded(
        system=text("x-anthropic-billing-header: cc_version=2.1.197.1c0;", "You are an agent.", "\nBe brief."),
        messages=[
            {"role": "user", "content": text("<system-reminder>", "Say hello")},
            {"role": "system", "content": "Agent types: ..."},
            {"role": "assistant", "content": answer},
            {"role": "user", "content": [back]},
        ],
        tools=[{"name": "Bash", "description": "Runs.", "input_schema": {"type": "object"}}],
        metadata={"user_id": "{}"}, max_tokens=32000, thinking={"type": "adaptive"}, output_config={"effort": "high"},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}, stream=True,
    )  # fmt: skip
    assert request.messages == (
        Message(role=Role.SYSTEM, content="You are an agent.\n\nBe brief."),
        user("<system-reminder>\nSay hello"),
        Message(role=Role.SYSTEM, content="Agent types: ..."),
        Message(
            role=Role.ASSISTANT,
            content="Listing.",
            reasoning="Hm.",
            tool_calls=(ToolCall(id="toolu_1", name="Bash", arguments='{"command":"ls"}'),),
        ),
        Message(role=Role.TOOL, content="a b", tool_call_id="toolu_1"),
    )
    assert request.thinking == Thinking(enabled=True, effort="high")


def test_texts():
    system = Message(role=Role.SYSTEM, content="Be\nkind.")
    assert messages_of({"role": "user", "content": text("a", "b")}, system=text("Be", "kind.")) == [
        system,
        user("a\nb"),
    ]
    assert messages_of(*HI, system="Be\nkind.") == [system, user("hi")]
    assert messages_of(*HI, system="") == [user("hi")]


def test_system_messages_stay_where_they_are():
    late = {"role": "system", "content": text("late")}
    assert [message.role for message in messages_of(*HI, late, *HI)] == [Role.USER, Role.SYSTEM, Role.USER]
    assert messages_of(*HI, late)[-1] == Message(role=Role.SYSTEM, content="late")


def test_neighbours_of_a_role_merge():
    said = [{"role": "assistant", "content": "x"}, {"role": "assistant", "content": text("y")}]
    assert messages_of(*HI, *HI, *said, *HI) == [
        user("hi\nhi"),
        Message(role=Role.ASSISTANT, content="x\ny"),
        user("hi"),
    ]


def test_assistant_blocks():
    blocks = [
        {"type": "thinking", "thinking": "Hm.", "signature": "from elsewhere"},
        {"type": "redacted_thinking", "data": "xyz"},
        {"type": "thinking", "thinking": "", "signature": sign("Ach só.")},
        *text("On it."),
        {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1, "ä": [True]}, "caller": {"type": "direct"}},
    ]
    assistant = messages_of(*HI, {"role": "assistant", "content": blocks}, *HI)[1]
    assert assistant == Message(
        role=Role.ASSISTANT,
        content="On it.",
        reasoning="Hm.\nAch só.",
        tool_calls=(ToolCall(id="c", name="f", arguments='{"a":1,"ä":[true]}'),),
    )
    assert messages_of(*HI, {"role": "assistant", "content": []}, *HI)[1] == Message(role=Role.ASSISTANT)


def test_tool_results_split_a_users_turn():
    blocks = [
        result("c", content="4 °C"),
        result("d", content=text("no", "such city"), is_error=True),
        result("e"),
        *text("And", "now?"),
        result("f", content=[]),
    ]

    def tool(call_id: str, content: str) -> Message:
        return Message(role=Role.TOOL, content=content, tool_call_id=call_id)

    expected = [tool("c", "4 °C"), tool("d", "Error: no\nsuch city"), tool("e", ""), user("And\nnow?"), tool("f", "")]
    assert messages_of(*HI, {"role": "assistant", "content": "x"}, {"role": "user", "content": blocks})[2:] == expected


def test_the_billing_header_is_dropped():
    """It changes with each request, at the very front of the prompt."""
    header = "x-anthropic-billing-header: cc_version=2.1; cc_entrypoint=cli; cch=0a1b2;"
    kind = Message(role=Role.SYSTEM, content="Be kind.")
    assert messages_of(*HI, system=text(header, "Be kind."))[0] == kind
    assert messages_of(*HI, system=f"{header}\nBe kind.")[0] == kind
    assert messages_of(*HI, system=text(header)) == [user("hi")]
    elsewhere = f"Never write\n{header}"
    assert messages_of(*HI, system=elsewhere)[0].content == elsewhere


@pytest.mark.parametrize("thinking", ["", "a", "Ach só. \N{GRINNING FACE}" * 100])
def test_signatures(thinking):
    assert recall(sign(thinking)) == thinking
    assert sign(thinking).isascii()


@pytest.mark.parametrize("signature", ["", "EqQBCkYIARgC", "mlx1.", "mlx1.a", "mlx1._w=="])
def test_other_signatures_say_nothing(signature):
    assert recall(signature) == ""


@pytest.mark.parametrize(
    ("fields", "thinking"),
    [
        ({}, Thinking()),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}}, Thinking(enabled=True, budget=5)),
        ({"thinking": {"type": "adaptive", "display": "summarized"}}, Thinking(enabled=True)),
        ({"thinking": {"type": "between_tools"}}, Thinking(enabled=True)),
        ({"thinking": {"type": "disabled"}}, Thinking(enabled=False)),
        ({"output_config": {"effort": "xhigh"}}, Thinking(effort="xhigh")),
        (
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
            Thinking(enabled=True, effort="low"),
        ),
    ],
)
def test_thinking(fields, thinking):
    assert decoded(**fields).thinking == thinking


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ToolChoice()),
        ({"type": "auto"}, ToolChoice()),
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolChoice(parallel=False)),
        ({"type": "none"}, ToolChoice(mode=CallMode.NONE)),
        ({"type": "any"}, ToolChoice(mode=CallMode.REQUIRED)),
        ({"type": "any", "disable_parallel_tool_use": True}, ToolChoice(mode=CallMode.REQUIRED, parallel=False)),
        ({"type": "tool", "name": "f"}, ToolChoice(mode=CallMode.REQUIRED, only=frozenset("f"))),
    ],
)
def test_tool_choice(choice, expected):
    assert decoded(tools=[TOOL, {**TOOL, "name": "g"}], tool_choice=choice).choice == expected


def test_tools():
    long = {"name": "x" * 128, "type": "custom", "description": "d", "input_schema": {"type": "object"}, "strict": True}
    search = {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"}
    assert decoded(tools=[{**TOOL, "defer_loading": True}, long, search]).tools == (
        Tool(name="f", parameters={"type": "object"}),
        Tool(name="x" * 128, description="d", parameters={"type": "object"}, strict=True),
    )


@pytest.mark.parametrize("place", ["output_config", "output_format"])
def test_output_format(place):
    schema = {"type": "object"}
    form = {"type": "json_schema", "schema": schema}
    given = {"output_config": {"format": form}} if place == "output_config" else {"output_format": form}
    param = "output_config.format" if place == "output_config" else place
    assert decoded(**given).answer == AnswerFormat(param=param, schema=schema)


def test_two_output_formats():
    one, other = ({"type": "json_schema", "schema": {"type": kind}} for kind in ("object", "array"))
    expected = AnswerFormat(param="output_config.format", schema={"type": "object"})
    assert decoded(output_config={"format": one}, output_format=one).answer == expected
    with pytest.raises(InvalidRequestError, match=r"`output_config.format` and `output_format`"):
        decoded(output_config={"format": one}, output_format=other)


def test_a_count_needs_no_limit():
    chat, wire = decode_prompt(json.dumps({"model": "m", "messages": HI, "system": "s", "tools": [TOOL]}).encode())
    assert wire.model == "m"
    assert (chat.messages, chat.tools) == (decoded(system="s").messages, decoded(tools=[TOOL]).tools)


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"messages": [*HI, {"role": "assistant", "content": blocks}, *HI]}


def of_user(*blocks: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": blocks}]}


BAD: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens"), ({"max_tokens": 0}, "max_tokens"), ({"model": ""}, "model"),
    ({"messages": []}, "messages"), ({"messages": "hi"}, "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user"}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
    ({"messages": [*HI, {"role": "assistant", "content": "I"}]}, "messages.1.role"),
    ({"temperature": 1.5}, "temperature"), ({"temperature": -0.1}, "temperature"), ({"top_p": 2}, "top_p"),
    ({"top_k": -1}, "top_k"), ({"stop_sequences": [""]}, "stop_sequences.0"), ({"stop_sequences": "x"}, "stop_sequences"),
    ({"system": [{"type": "image", "source": {}}]}, "system.0.type"), ({"system": 1}, "system"),
    ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"), ({"thinking": {"type": "much"}}, "thinking.type"),
    ({"output_config": {"effort": "none"}}, "output_config.effort"),
    ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type"),
    ({"tools": [{"type": "browser_toolset_20260801"}]}, "tools.0.type"),
    ({"tools": [{"name": "f"}]}, "tools.0.input_schema"), ({"tools": [{"input_schema": {}}]}, "tools.0.name"),
    ({"tools": [{**TOOL, "name": "a b"}]}, "tools.0.name"), ({"tools": [TOOL, TOOL]}, "tools.1.name"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"), ({"tool_choice": {"type": "tool", "name": "f"}}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "g"}}, "tool_choice.name"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
    ({"tools": [TOOL], "tool_choice": "any"}, "tool_choice"),
    ({"mcp_servers": [{"type": "url"}]}, "mcp_servers"), ({"container": "c"}, "container"),
    ({"thread": {"type": "create"}}, "thread"), ({"compaction": {}}, "compaction"),
    (of_user({"type": "image", "source": {}}), "messages.0.content.0.type"),
    (of_user({"type": "document", "source": {}}), "messages.0.content.0.type"),
    (of_user(result(content=[{"type": "image", "source": {}}])), "messages.0.content.0.content.0.type"),
    (of_user(result(content="x") | {"tool_use_id": None}), "messages.0.content.0.tool_use_id"),
    (of_user(*text("a"), {"type": "text"}), "messages.0.content.1.text"),
    (of_user({"type": "tool_use", "id": "c", "name": "f", "input": {}}), "messages.0.content.0.type"),
    (of_user({"text": "x"}), "messages.0.content.0.type"),
    (assistant({"type": "tool_use", "id": "c", "name": "f"}), "messages.1.content.0.input"),
    (assistant({"type": "tool_use", "name": "f", "input": {}}), "messages.1.content.0.id"),
    (assistant({"type": "tool_use", "id": "c", "input": {}}), "messages.1.content.0.name"),
    (assistant({"type": "tool_use", "id": "c", "name": "f", "input": "{}"}), "messages.1.content.0.input"),
    (assistant({"type": "thinking", "signature": "x"}), "messages.1.content.0.thinking"),
    (assistant({"type": "server_tool_use", "id": "c", "name": "f", "input": {}}), "messages.1.content.0.type"),
    (assistant(result(content="x")), "messages.1.content.0.type"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), BAD)
def test_bad_fields_are_named(fields, param):
    with pytest.raises(InvalidRequestError) as caught:
        decoded(**fields)
    assert caught.value.param == param


def test_media_are_refused_by_name():
    with pytest.raises(InvalidRequestError, match="image blocks"):
        decoded(**of_user({"type": "image", "source": {}}))
