"""An agent's turns against a real worker, in every dialect: each is computed only from where it is new."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.api.conftest import Serving

SYSTEM = "You are an agent that works on the files of a project. " * 10
SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}


@dataclass
class Turn:
    """What the agent sends back: a question of its user, or what the model thought, which call it made and what came of it."""

    question: str = ""
    thought: str = ""
    path: str = ""
    result: str = ""


def chat(turns: list[Turn], number: int) -> tuple[str, dict[str, Any]]:
    messages: list[dict[str, Any]] = [{"role": "system", "content": SYSTEM}]
    for i, turn in enumerate(turns):
        if turn.question:
            messages.append({"role": "user", "content": turn.question})
            continue
        function = {"name": "read", "arguments": f'{{"path":"{turn.path}"}}'}
        messages += [
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": turn.thought,
                "tool_calls": [{"id": f"call_{i}", "type": "function", "function": function}],
            },
            {"role": "tool", "tool_call_id": f"call_{i}", "content": turn.result},
        ]
    tools = [{"type": "function", "function": {"name": "read", "description": "Reads.", "parameters": SCHEMA}}]
    return "/v1/chat/completions", {"messages": messages, "tools": tools, "max_completion_tokens": 16}


def responses(turns: list[Turn], number: int) -> tuple[str, dict[str, Any]]:
    items: list[dict[str, Any]] = []
    for i, turn in enumerate(turns):
        if turn.question:
            items.append({"role": "user", "content": [{"type": "input_text", "text": turn.question}]})
            continue
        thought = [{"type": "reasoning_text", "text": turn.thought}]
        items += [
            {"type": "reasoning", "id": f"rs_{i}", "summary": [], "content": thought},
            {
                "type": "function_call",
                "call_id": f"call_{i}",
                "name": "read",
                "arguments": f'{{"path":"{turn.path}"}}',
            },
            {"type": "function_call_output", "call_id": f"call_{i}", "output": turn.result},
        ]
    tools = [{"type": "function", "name": "read", "description": "Reads.", "parameters": SCHEMA, "strict": False}]
    body = {"instructions": SYSTEM, "input": items, "tools": tools, "store": False, "max_output_tokens": 16}
    return "/v1/responses", body


def anthropic(turns: list[Turn], number: int) -> tuple[str, dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for i, turn in enumerate(turns):
        if turn.question:
            messages.append({"role": "user", "content": turn.question})
            continue
        thinking = {"type": "thinking", "thinking": turn.thought, "signature": ""}
        call = {"type": "tool_use", "id": f"toolu_{i}", "name": "read", "input": {"path": turn.path}}
        result = {"type": "tool_result", "tool_use_id": f"toolu_{i}", "content": turn.result}
        messages += [{"role": "assistant", "content": [thinking, call]}, {"role": "user", "content": [result]}]
    # As a well-known agent begins its system prompt, differently at each request.
    header = f"x-anthropic-billing-header: cc_version=2.1.197; cch={number:05x};"
    system = [{"type": "text", "text": header}, {"type": "text", "text": SYSTEM}]
    tools = [{"name": "read", "description": "Reads.", "input_schema": SCHEMA}]
    return "/v1/messages", {"system": system, "messages": messages, "tools": tools, "max_tokens": 16}


def counts(usage: dict[str, Any]) -> tuple[int, int]:
    """Tokens of the prompt, and how many of them were cached."""
    if "cache_read_input_tokens" in usage:
        return usage["input_tokens"] + usage["cache_read_input_tokens"], usage["cache_read_input_tokens"]
    name = "prompt" if "prompt_tokens" in usage else "input"
    return usage[f"{name}_tokens"], usage[f"{name}_tokens_details"]["cached_tokens"]


@pytest.mark.parametrize("dialect", [chat, responses, anthropic])
def test_each_turn_of_an_agent_is_computed_from_where_it_is_new(real_server: Serving, dialect):
    turns: list[Turn] = []
    seen: list[tuple[int, int]] = []

    def send(turn: Turn) -> tuple[int, int]:
        turns.append(turn)
        path, body = dialect(turns, len(seen))
        answer = httpx.post(real_server.url + path, json={"model": "tiny", "temperature": 0, **body}, timeout=240)
        assert answer.status_code == 200, answer.text
        seen.append(counts(answer.json()["usage"]))
        return seen[-1]

    # Of its own for each dialect, so that none finds what another has left.
    send(Turn(question=f"What does the project do, said in {dialect.__name__}? " * 5))
    for name in ("README", "main.py", "test.py"):
        before, _ = seen[-1]
        length, cached = send(Turn(thought=f"I should read {name}.", path=name, result=f"{name} says hello. " * 20))
        # All of the last prompt, but for a token or two where the answer was to begin.
        assert before - 4 <= cached < length
    # The template leaves the thoughts before a new question out: what precedes the first of them is what is left.
    _, cached = send(Turn(question="And now write it down."))
    assert seen[0][0] - 4 <= cached < seen[1][0]
    assert [cached for _, cached in seen[:4]] == sorted({cached for _, cached in seen[:4]})
