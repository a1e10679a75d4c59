"""A server that is started with a configuration file: what it says of models holds on every way to them."""

from __future__ import annotations

from pathlib import Path

import httpx
import openai
import pytest

from tests.e2e.conftest import PATIENCE, QWEN, wait_until
from tests.tiny_models import make_adapter

FILE = """
idle-timeout = 1
default-max-tokens = 9
alias = ["short=tiny-qwen3", "poet=short", "small=short"]
model-map = ["claude-*=short"]

[models."{model}"]
temperature = 0
pinned = true

[models.short]
max_tokens = 3
chat_template_kwargs = {{ enable_thinking = false }}

[models.poet]
adapter = "someone/Poet"
pinned = false

[models.small]
context-length = 24
pinned = false
"""


def test_names_tables_and_adapters(start, hub, tmp_path: Path) -> None:
    model = hub.repositories[QWEN.casefold()].folder
    hub.add("someone/Poet", make_adapter(tmp_path / "poet", model))
    file = tmp_path / "nano.toml"
    file.write_text(FILE.format(model=QWEN))
    server = start("--config", str(file), HF_HOME=str(tmp_path / "hf"))

    def states() -> dict[str, str]:
        return {model["id"]: model["state"] for model in server.health()["models"]}

    wait_until(lambda: states() == {QWEN: "ready"})  # it was downloaded and loaded because it is pinned
    assert server.client.models.retrieve("poet").to_dict()["alias_of"] == QWEN

    def ask(name: str, content: str = "Hello there.") -> tuple[str, int]:
        answer = server.client.chat.completions.create(model=name, messages=[{"role": "user", "content": content}])
        assert answer.usage is not None
        return answer.choices[0].message.content or "", answer.usage.completion_tokens

    plain, count = ask(QWEN)
    assert count == 9 and ask("tiny-qwen3") == (plain, 9), "temperature 0, and --default-max-tokens"
    short, count = ask("short")
    assert count == 3 and ask("claude-3") == (short, 3)
    headers = {"x-api-key": "x", "anthropic-version": "2023-06-01"}
    body = {"model": "short", "max_tokens": 3, "messages": [{"role": "user", "content": "Hello there."}]}
    message = httpx.post(f"{server.url}/v1/messages", json=body, headers=headers, timeout=PATIENCE).json()
    assert message["content"][0]["text"] == short
    assert states() == {QWEN: "ready"}, "one worker for all of these names"

    poem, count = ask("poet")
    assert count == 3 and poem != short
    with pytest.raises(openai.BadRequestError) as caught:
        ask("small", "word " * 40)
    assert caught.value.code == "context_length_exceeded"
    wait_until(lambda: states() == {QWEN: "ready"})  # the pinned one outlives the idle time-out, the others don't
