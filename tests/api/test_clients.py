"""What agents really send, cut down from recorded traffic: a first turn, and the next one with a tool's result.

docs/clients.md names the versions."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import httpx
import pytest

from mlx_server_nano.protocol import Started
from tests.api.conftest import HERMES, Running
from tests.api.fakes import Script, text

SCHEMA: Any = {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}
CALL = '</think>On it.<tool_call>{"name": "shell", "arguments": {"command": "ls"}}</tool_call>'
ARGUMENTS = '{"command":"ls"}'
FUNCTION = {"type": "function", "function": {"name": "shell", "description": "Run.", "parameters": SCHEMA}}
HISTORY = [
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "shell", "arguments": ARGUMENTS}}],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "a.py"},
]

AIDER = {
    "model": "m",
    "temperature": 0,
    "stream": True,
    "messages": [
        {"role": "system", "content": "Act as an expert."},
        {"role": "user", "content": "Change the greeting."},
        {"role": "assistant", "content": "Ok."},
        {"role": "user", "content": "I switched to a new code base."},
        {"role": "assistant", "content": "Ok."},
        {"role": "user", "content": "Here are the files."},
        {"role": "user", "content": "Say hi"},
    ],
}
OPENCODE_TITLE = {
    "model": "m",
    "max_tokens": 400,
    "stream": True,
    "stream_options": {"include_usage": True},
    "messages": [
        {"role": "system", "content": "You are a title generator."},
        {"role": "user", "content": "Generate a title for this conversation:\n"},
        {"role": "user", "content": '"Say hi"'},
    ],
}
OPENCODE = {
    **OPENCODE_TITLE,
    "tools": [FUNCTION],
    "tool_choice": "auto",
    "messages": [{"role": "system", "content": "You are an agent."}, {"role": "user", "content": '"Say hi"'}],
}
QWEN_CODE = {
    "model": "m",
    "max_tokens": 8000,
    "stream": True,
    "stream_options": {"include_usage": True},
    "tools": [FUNCTION],
    "messages": [
        {"role": "system", "content": "You are Qwen Code."},
        {"role": "user", "content": [{"type": "text", "text": "This is the context."}]},
        {"role": "assistant", "content": "Got it."},
        {"role": "user", "content": [{"type": "text", "text": "Say hi"}]},
    ],
}
CONTINUE = {
    "model": "m",
    "stream": True,
    "stream_options": {"include_usage": True},
    "tools": [FUNCTION],
    "messages": [{"role": "system", "content": "You are an agent."}, {"role": "user", "content": "Say hi"}],
}
CODEX = {
    "model": "m",
    "stream": True,
    "store": False,
    "include": ["reasoning.encrypted_content"],
    "reasoning": {"summary": "auto"},
    "parallel_tool_calls": True,
    "prompt_cache_key": "01a207a1",
    "client_metadata": {"session_id": "01a207a1", "x-codex-window-id": "01a207a1:0"},
    "tool_choice": "auto",
    "tools": [
        {"type": "function", "name": "shell", "description": "Run.", "strict": False, "parameters": SCHEMA},
        {"type": "namespace", "name": "agents", "description": "Others.", "tools": []},
        {"type": "web_search", "external_web_access": False},
    ],
    "input": [
        {"type": "message", "role": role, "id": f"msg_{n}", "content": [{"type": "input_text", "text": "Say hi"}]}
        for n, role in enumerate(["developer", "developer", "user", "user"])
    ],
}
MESSAGES_AGENT = {
    "model": "m",
    "max_tokens": 64000,
    "stream": True,
    "thinking": {"type": "adaptive"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "high"},
    "metadata": {"user_id": '{"device_id":"b941"}'},
    "system": [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.197.123; cch=00000;"},
        {"type": "text", "text": "You are an agent.", "cache_control": {"type": "ephemeral"}},
    ],
    "tools": [{"name": "shell", "description": "Run.", "input_schema": SCHEMA}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Say hi", "cache_control": {"type": "ephemeral"}}]},
        {"role": "system", "content": "Available agents: none."},
    ],
}


def events(server: Running, path: str, body: dict[str, Any]) -> list[Any]:
    """The data of each event; [DONE] stays text."""
    script = Script(lambda request: [[Started(0, 7, 3, "<think>")], *text("Hm.", CALL)], template=HERMES)
    server.manager.scripts["m"] = script
    response = httpx.post(server.url + path, json=body)
    assert response.status_code == 200, response.text
    data = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    return [entry if entry == "[DONE]" else json.loads(entry) for entry in data]


@pytest.mark.parametrize("body", [OPENCODE, QWEN_CODE, CONTINUE], ids=["opencode", "qwen-code", "continue"])
@pytest.mark.parametrize("more", [[], HISTORY], ids=["first turn", "after a tool"])
def test_chat_agents(server, body, more):
    *chunks, usage, done = events(server, "/v1/chat/completions", {**body, "messages": body["messages"] + more})
    assert done == "[DONE]" and usage["choices"] == [] and usage["usage"]["prompt_tokens"] == 7
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    calls = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", [])]
    assert "".join(call["function"].get("arguments", "") for call in calls).replace(" ", "") == ARGUMENTS


@pytest.mark.parametrize("body", [AIDER, OPENCODE_TITLE], ids=["aider", "opencode's title"])
def test_chat_without_tools(server, body):
    *chunks, done = events(server, "/v1/chat/completions", body)
    finishes = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert done == "[DONE]" and [finish for finish in finishes if finish] == ["stop"]


@pytest.mark.parametrize("again", [False, True], ids=["first turn", "after a tool"])
def test_codex(server, again):
    result = [
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "shell", "arguments": ARGUMENTS},
        {"type": "function_call_output", "call_id": "c1", "output": "a.py"},
    ]
    last = events(server, "/v1/responses", {**CODEX, "input": CODEX["input"] + result * again})[-1]
    assert last["type"] == "response.completed"
    call = last["response"]["output"][-1]
    assert (call["type"], call["name"]) == ("function_call", "shell")
    assert json.loads(call["arguments"]) == {"command": "ls"}


@pytest.mark.parametrize("again", [False, True], ids=["first turn", "after a tool"])
def test_claude_code(server, again):
    assert httpx.head(server.url).status_code == 200  # it asks whether anybody is there
    result = [
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "t1", "name": "shell", "input": {"command": "ls"}}],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "a.py", "is_error": False}],
        },
    ]
    body = {**MESSAGES_AGENT, "messages": MESSAGES_AGENT["messages"] + result * again}
    *_, delta, stop = events(server, "/v1/messages?beta=true", body)
    assert delta["delta"]["stop_reason"] == "tool_use" and stop == {"type": "message_stop"}


def test_threads_are_refused_so_that_the_whole_conversation_comes(server):
    """anthropic 2.14: its tool runner asks for threads by itself and would send a tool's result alone."""

    @anthropic.beta_tool
    def shell(command: str) -> str:
        """Run."""
        return f"a.py of {command}"

    def play(request: Any) -> Any:
        return [[Started(0, 7, 3, "<think>")], *text("</think>Done." if len(request.prompt.messages) > 1 else CALL)]

    server.manager.scripts["m"] = Script(play, template=HERMES)
    with anthropic.Anthropic(base_url=server.url, api_key="x", max_retries=0, timeout=60) as client:
        messages: Any = [{"role": "user", "content": "Say hi"}]
        last = client.beta.messages.tool_runner(model="m", max_tokens=99, messages=messages, tools=[shell]).until_done()
    assert last.content[-1].to_dict()["text"] == "Done."
    _, second = server.manager.requests
    assert [message["role"] for message in second.prompt.messages] == ["user", "assistant", "tool"]
    response = httpx.post(f"{server.url}/v1/messages", json={**MESSAGES_AGENT, "thread": {"type": "create"}})
    assert response.status_code == 400
    assert response.json()["error"]["details"] == {"error_code": "thread_unsupported_request"}
