"""The demo model's chat template against what Qwen3's users rely on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from training.render import TEMPLATE_FILE, prompt, render, split_last

WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "Zürich's", "parameters": {"type": "object", "properties": {}}},
}
CALL: dict[str, Any] = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich"}}}
ASK: dict[str, Any] = {"role": "user", "content": "Weather?"}
RENDERS = Path(__file__).parents[3] / "shared" / "assets" / "templates" / "renders.jsonl"


def test_generation_prompt_with_and_without_thinking():
    assert prompt([ASK], (), thinking=True) == "<|im_start|>user\nWeather?<|im_end|>\n<|im_start|>assistant\n"
    assert prompt([ASK], (), thinking=False).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_tools_are_json_lines_after_the_system_prompt():
    text = render([{"role": "system", "content": "Be brief."}, ASK], [WEATHER, WEATHER])
    head, listed, rest = text.partition("<tools>\n")
    assert head.startswith("<|im_start|>system\nBe brief.\n\n") and listed
    lines = rest.split("\n</tools>")[0].split("\n")
    assert [json.loads(line) for line in lines] == [WEATHER, WEATHER]
    assert "Zürich" in lines[0]
    assert text.count("<|im_start|>system") == 1


@pytest.mark.parametrize("arguments", [{"city": "Zürich"}, '{"city": "Zürich"}'])
@pytest.mark.parametrize("wrapped", [True, False])
def test_calls_are_written_alike_from_objects_and_from_text(arguments, wrapped):
    function = {"name": "weather", "arguments": arguments}
    call = {"type": "function", "function": function} if wrapped else function
    text = render([ASK, {"role": "assistant", "content": None, "tool_calls": [call, call]}, ASK])
    block = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
    assert f"<|im_start|>assistant\n{block}\n{block}<|im_end|>\n" in text


def test_results_share_one_user_turn():
    results = [{"role": "tool", "content": "1"}, {"role": "tool", "content": "2"}]
    text = render([ASK, {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]}, *results])
    one, two = ("<tool_response>\n1\n</tool_response>", "<tool_response>\n2\n</tool_response>")
    assert text.endswith(f"<|im_start|>user\n{one}\n{two}<|im_end|>\n")


def test_thinking_stays_within_the_round_and_leaves_with_the_next_question():
    thought: dict[str, Any] = {"role": "assistant", "content": "", "reasoning_content": "Hm.", "tool_calls": [CALL]}
    tool_round = [ASK, thought, {"role": "tool", "content": "18"}]
    assert "<think>\nHm.\n</think>\n\n<tool_call>" in render(tool_round)
    assert "Hm." not in render([*tool_round, {"role": "assistant", "content": "18."}, ASK])


def test_the_same_question_twice_does_not_confuse_the_rounds():
    thought: dict[str, Any] = {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."}
    assert render([ASK, thought, ASK, thought]).count("Hm.") == 1


def test_thinking_within_the_content_is_split_off():
    inline = {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nYes."}
    assert render([ASK, inline]).endswith("<|im_start|>assistant\n<think>\nHm.\n</think>\n\nYes.<|im_end|>\n")
    assert render([ASK, inline, ASK]).count("Hm.") == 0


def test_text_parts_and_developer_turns():
    parts = {
        "role": "user",
        "content": [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}],
    }
    text = render([{"role": "developer", "content": "Be brief."}, parts])
    assert text == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nab<|im_end|>\n"


@pytest.mark.parametrize("thinking", [True, False])
def test_the_answer_continues_its_prompt(thinking):
    answer = {"role": "assistant", "content": "18.", "reasoning_content": "Hm." if thinking else ""}
    given, written = split_last([ASK, answer], (), thinking)
    assert given == prompt([ASK], (), thinking)
    assert written == ("<think>\nHm.\n</think>\n\n18.<|im_end|>" if thinking else "18.<|im_end|>")


def test_markers_that_formats_are_detected_by():
    source = TEMPLATE_FILE.read_text()
    assert all(
        marker in source for marker in ("<tool_call>", '"name"', '"arguments"', "tool_call.name", "enable_thinking")
    )


def test_renders_as_qwen3_does_where_no_tools_are_listed():
    if not RENDERS.exists() and os.environ.get("REQUIRE_ASSETS") != "1":
        pytest.skip("the shared assets are not here")
    cases = [json.loads(line) for line in RENDERS.read_text().splitlines()]
    compared = 0
    for case in cases:
        if case["template"] != "qwen3.jinja" or case["case"] == "content_parts":
            continue
        ours = render(case["messages"], case["tools"] or (), add_generation_prompt=True, **case["kwargs"])
        theirs = case["rendered"]
        if case["tools"]:  # the words of the introduction are ours; the turns after it are compared
            ours, theirs = (text.split("</tool_call><|im_end|>\n", 1)[1] for text in (ours, theirs))
        assert ours == theirs, case["case"]
        compared += 1
    assert compared == 8
