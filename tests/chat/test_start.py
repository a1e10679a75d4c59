from __future__ import annotations

import pytest

from mlx_server_nano.chat.formats import FORMATS
from mlx_server_nano.chat.start import starts_in_reasoning
from tests.chat import golden
from tests.chat.golden import format_of, needs_assets

CASES = [case for case in golden.load("cases.jsonl") if case.get("prompt_tail")]


@needs_assets
def test_the_prompts_of_the_golden_cases() -> None:
    wrong = [
        case["id"]
        for case in CASES
        if starts_in_reasoning(format_of(case), case["prompt_tail"]) is not case["starts_in_reasoning"]
    ]
    assert len(CASES) > 100
    assert wrong == []


@pytest.mark.parametrize(
    ("name", "tail", "inside"),
    [
        ("hermes", "<|im_start|>assistant\n<think>\n", True),
        ("hermes", "<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("hermes", "<|im_start|>user\nwhat is <think>?<|im_end|>\n<|im_start|>assistant\n", False),
        ("hermes", "", False),
        ("mistral", "[/INST][THINK]", True),
        ("seed-oss", "<seed:bos>assistant\n<seed:think>", True),
        ("minimax-m3", "]~b]ai\n<mm:think>", True),
        ("command-r7b", "<|CHATBOT_TOKEN|><|START_THINKING|>", True),
        ("gemma-4", "<|turn>model\n<|channel>thought\n", True),
        ("gpt-oss", "<|end|><|start|>assistant", False),
        ("gpt-oss", "<|start|>assistant<|channel|>analysis<|message|>", True),
        ("gpt-oss", "<|start|>assistant<|channel|>final<|message|>", False),
        ("muse", "<|start|>assistant to=self<|message|>", True),
        ("plain", "<think>\n", False),
    ],
)
def test_an_opening_at_the_very_end_counts(name: str, tail: str, inside: bool) -> None:
    assert starts_in_reasoning(FORMATS[name], tail) is inside
