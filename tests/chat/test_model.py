"""What the operator has set for a name of the model, beside what a request says."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_server_nano.chat import model
from mlx_server_nano.chat.model import ChatModel
from mlx_server_nano.chat.request import ChatRequest, Thinking
from mlx_server_nano.errors import InvalidRequestError
from mlx_server_nano.types import ChatPrompt, Message, ModelInfo, Role

INFO = ModelInfo(
    model_type="fake",
    context_length=100,
    vocab_size=10,
    weights_bytes=1,
    chat_template="{% if enable_thinking %}<think>{% endif %}{{ tone }}{{ messages }}",
    chats=True,
    special_tokens={},
    batchable=True,
)


def variables(chat: ChatModel, **fields: Any) -> dict[str, Any]:
    prompt = chat.bind(ChatRequest(messages=(Message(role=Role.USER, content="hi"),), **fields)).request.prompt
    assert isinstance(prompt, ChatPrompt)
    return prompt.template_kwargs


def test_variables_of_the_template() -> None:
    chat = ChatModel(INFO).configured(None, {"enable_thinking": False, "tone": "dry"})
    assert variables(chat) == {"enable_thinking": False, "tone": "dry"}
    assert variables(chat, thinking=Thinking(enabled=True)) == {"enable_thinking": True, "tone": "dry"}
    own = {"enable_thinking": False, "mood": 1}
    assert variables(chat, thinking=Thinking(enabled=True), template_kwargs=own) == {**own, "tone": "dry"}


def test_a_template_is_tried_once_for_each_level_of_thinking(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[dict[str, Any]] = []

    def try_out(source: str, **asked: Any) -> dict[str, Any]:
        tried.append(asked)
        return {"level": asked["effort"]}

    monkeypatch.setattr(model, "thinking_variables", try_out)
    chat = ChatModel(INFO)
    for effort in ("low", "high", "low"):
        for budget in (None, 5):
            thinking = Thinking(effort=effort, budget=budget)
            assert variables(chat.configured(None, {"tone": "dry"}), thinking=thinking)["level"] == effort
    assert [asked["effort"] for asked in tried] == ["low", "high"]


def test_the_format_and_the_model_behind_it() -> None:
    chat = ChatModel(INFO)
    other = chat.configured("hermes", None)
    assert (other.format.name, chat.format.name) == ("hermes", "thinking")
    assert chat.configured(None, None) is chat and variables(chat) == {}
    with pytest.raises(InvalidRequestError, match="no tool format 'x'"):
        chat.configured("x", None)
