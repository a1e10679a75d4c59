from __future__ import annotations

from typing import Any

import pytest

from mlx_server_nano.chat.thinking import thinking_variables
from tests.chat.golden import ASSETS, needs_assets


@needs_assets
@pytest.mark.parametrize(
    ("template", "effort", "enabled", "expected"),
    [
        ("qwen3", "none", None, {"enable_thinking": False}),
        ("qwen3", "high", None, {"enable_thinking": True}),
        ("qwen3", None, False, {"enable_thinking": False}),
        ("qwen3", None, None, {}),
        ("qwen3-instruct-2507", "none", None, {}),
        ("qwen3.8", "minimal", None, {"enable_thinking": True, "reasoning_effort": "low"}),
        ("qwen3.8", "none", None, {"enable_thinking": False}),
        ("deepseek-v3.1", None, True, {"enable_thinking": True, "thinking": True}),
        ("granite-3.3", None, True, {"thinking": True}),
        ("gpt-oss", "high", None, {"reasoning_effort": "high"}),
        ("gpt-oss", "none", None, {"reasoning_effort": "low"}),
        ("gpt-oss", "xhigh", None, {"reasoning_effort": "high"}),
        ("mistral-v15", "none", None, {"reasoning_effort": "none"}),
        ("mistral-v15", "medium", None, {"reasoning_effort": "high"}),
        ("kimi-k3", "medium", None, {"thinking": True, "thinking_effort": "low"}),
        ("kimi-k3", "none", None, {"thinking": False}),
        ("minimax-m3", "none", None, {"thinking_mode": "disabled"}),
        ("seed-oss", "none", None, {"thinking_budget": 0}),
        ("seed-oss", "high", None, {}),
        ("qwen3", "no such level", None, {"enable_thinking": True}),
    ],
)
def test_a_request_reaches_the_template_in_its_words(
    template: str, effort: str | None, enabled: bool | None, expected: dict[str, Any]
) -> None:
    source = (ASSETS / "templates" / f"{template}.jinja").read_text("utf-8")
    assert thinking_variables(source, effort=effort, enabled=enabled) == expected
