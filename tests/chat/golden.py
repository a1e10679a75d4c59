"""The golden cases: raw model output and what it means. See the README beside them for how they compare."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mlx_server_nano.chat.deltas import CallArguments, CallStart, ContentDelta, Delta, ReasoningDelta
from mlx_server_nano.chat.formats import FORMATS
from mlx_server_nano.chat.formats.base import Format
from mlx_server_nano.chat.machine import Machine
from mlx_server_nano.types import Tool

ASSETS = Path(__file__).parents[3] / "shared" / "assets"
needs_assets = pytest.mark.skipif(not ASSETS.is_dir(), reason="the test assets are not there")

# The collection's families that share a format.
FORMAT_OF = {
    "cohere": "command-r7b",
    "deepseek-r1": "thinking",
    "ernie-4.5": "hermes",
    "granite-20b-fc": "granite-20b-functioncalling",
    "granite-4": "hermes",
    "hunyuan-a13b": "hunyuan",
    "hy-v3": "hunyuan-v3",
    "laguna": "glm-4",
    "llama-3-function-tag": "llama-3",
    "qwen3": "hermes",
    "qwen3-coder": "qwen-xml",
}

# Cases that this project holds to be wrong or decides otherwise, with the reason.
DISPUTED = {
    "deepseek-r1-cs-013": "the first closing tag ends the reasoning; the source joins what comes after the second one to it",
    "deepseek-v4-cs-010": "the source drops the text before the call",
    "gigachat-cs-004": "the source drops a call whose arguments are no object; here the client gets them as they are",
    "gpt-oss-cs-011": "the source leaves an end marker in the content",
    "granite-3-cs-009": "the source drops the text after the call",
    "hy-v3-ch-004": "the source drops a call of an undeclared tool; a call is never dropped here",
    "hy-v3-cs-003": "the source drops text after a call's opening that no call follows; here it is content",
    "kimi-k3-ch-005": "the source drops text between two closing tags; here it is content",
    "minimax-m3-cs-012": "the empty values are to be [] and {}, but the case has no tools that would say so",
    "mistral-cs-004": "the id comes after the arguments, which have been streamed under another id by then",
    "muse-ch-002": "a message to=self is reasoning; the source's parser for calls leaves it in the content",
    "muse-cs-004": "a message to=self is reasoning; the source's parser for calls leaves it in the content",
    "muse-cs-007": "a message to=self is reasoning; the source's parser for calls leaves it in the content",
    "qwen3-cs-008": "a second closing tag beside the first is markup, not content",
}


@dataclass
class Answer:
    """The deltas of an answer, put together."""

    content: str = ""
    reasoning: str = ""
    calls: list[dict[str, str]] = field(default_factory=list)


def load(name: str) -> list[dict[str, Any]]:
    path = ASSETS / "toolcalls" / name
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def format_of(case: dict[str, Any]) -> Format:
    name = "mistral-v7" if case["format"] == "mistral-v3/v7-json" else case["family"]
    return FORMATS[FORMAT_OF.get(name, name)]


def tools_of(case: dict[str, Any]) -> list[Tool]:
    functions = [tool.get("function", tool) for tool in case["tools"]]
    return [Tool(name=f["name"], parameters=f.get("parameters")) for f in functions]


def machine_for(case: dict[str, Any]) -> Machine:
    return Machine(
        format_of(case), tools_of(case), starts_in_reasoning=case["starts_in_reasoning"], make_id=iter_ids().__next__
    )


def iter_ids() -> Any:
    return (f"fresh-{number}" for number in range(1 << 30))


def run(machine: Machine, pieces: Iterable[str]) -> list[Delta]:
    """All deltas of an answer fed in pieces, neighbours of a kind merged."""
    deltas: list[Delta] = []
    for piece in pieces:
        deltas += machine.feed(piece)
    return merged(deltas + machine.finish())


def merged(deltas: Iterable[Delta]) -> list[Delta]:
    out: list[Delta] = []
    for delta in deltas:
        last = out[-1] if out else None
        if isinstance(delta, ContentDelta) and isinstance(last, ContentDelta):
            out[-1] = ContentDelta(last.text + delta.text)
        elif isinstance(delta, ReasoningDelta) and isinstance(last, ReasoningDelta):
            out[-1] = ReasoningDelta(last.text + delta.text)
        elif isinstance(delta, CallArguments) and isinstance(last, CallArguments) and last.index == delta.index:
            out[-1] = CallArguments(delta.index, last.fragment + delta.fragment)
        else:
            out.append(delta)
    return out


def assemble(deltas: Iterable[Delta]) -> Answer:
    answer = Answer()
    for delta in deltas:
        if isinstance(delta, ContentDelta):
            answer.content += delta.text
        elif isinstance(delta, ReasoningDelta):
            answer.reasoning += delta.text
        elif isinstance(delta, CallStart):
            assert delta.index == len(answer.calls)
            answer.calls.append({"id": delta.id, "name": delta.name, "arguments": ""})
        elif isinstance(delta, CallArguments):
            answer.calls[delta.index]["arguments"] += delta.fragment
    return answer


def differences(case: dict[str, Any], answer: Answer) -> list[str]:
    """What of the case's checks the answer misses."""
    expected, found = case["expect"], []
    for part in ("content", "reasoning"):
        if part in case["checks"] and (expected[part] or "").strip() != getattr(answer, part).strip():
            found.append(f"{part}: {getattr(answer, part)!r}, not {expected[part]!r}")
    if "tool_calls" in case["checks"]:
        calls = expected["tool_calls"]
        if len(calls) != len(answer.calls) or not all(map(_same_call, calls, answer.calls)):
            found.append(f"calls: {answer.calls}, not {calls}")
    return found


def _same_call(wanted: dict[str, Any], got: dict[str, str]) -> bool:
    if wanted["name"] != got["name"] or wanted.get("id", got["id"]) != got["id"]:
        return False
    if "arguments" not in wanted:
        return got["arguments"] == wanted["arguments_raw"]
    try:
        arguments = json.loads(got["arguments"])
    except ValueError:
        return False
    return same(wanted["arguments"], arguments)


def same(a: Any, b: Any) -> bool:
    """Deeply equal; 1 equals 1.0, but a bool is no number."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)
