"""Real turns through a chat template: the next one is computed only from where it is new, on every kind of cache."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_server_nano.types import ChatPrompt, GenerationRequest
from tests.worker.harness import GREEDY, Driver

Message = dict[str, Any]
SYSTEM: Message = {"role": "system", "content": "You work on files. " * 20}
ARCHITECTURES = ["qwen3", "gemma3_text", "qwen3_next", "lfm2", "mamba2"]


class Chat:
    def __init__(self, driver: Driver, **template: Any) -> None:
        self._driver = driver
        self._template = template
        self.messages = [SYSTEM]

    def submit(self, text: str, role: str = "user") -> int:
        self.messages.append({"role": role, "content": text})
        prompt = ChatPrompt(messages=tuple(self.messages), template_kwargs=self._template)
        return self._driver.submit(GenerationRequest(prompt=prompt, sampling=GREEDY, max_tokens=8))

    def say(self, text: str, role: str = "user") -> tuple[int, int]:
        """One turn; the answer is sent back in the next. Gives the prompt's length and what of it was cached."""
        request = self.submit(text, role)
        self._driver.run()
        # As clients that keep no reasoning send it back; what a random model wrote may well tokenize otherwise.
        self.messages.append({"role": "assistant", "content": self._driver.answers()[request, 0].text.strip()})
        started = self._driver.started()[request]
        return started.prompt_tokens, started.cached_tokens


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("template", [{}, {"enable_thinking": False}], ids=["open", "closed"])
def test_each_turn_finds_all_that_came_before(tiny, arch, template):
    """With thinking off, the prompt ends in an empty thought that the next turn's rendering leaves out."""
    driver = Driver(tiny(arch))
    chat = Chat(driver, **template)
    length, cached = chat.say("Read the first file, " * 10)
    assert cached == 0
    for text, role in (
        ("The file says: " * 20, "tool"),
        ("And the second? " * 10, "user"),
        ("It says nothing. " * 10, "tool"),
    ):
        before = length
        length, cached = chat.say(text, role)
        # All but the end of the prompt, where the answer was to begin.
        assert before - 6 <= cached < length
    # Another conversation shares the system prompt.
    _, cached = Chat(driver, **template).say("Something else.")
    assert cached > 80
    # The same question again has nothing left to compute but its last token.
    same = Chat(driver, **template)
    length, cached = same.say("Something else.")
    assert cached == length - 1


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_what_a_cancelled_prefill_has_computed_is_kept(tiny, arch):
    driver = Driver(tiny(arch), prefill_chunk=64)
    chat = Chat(driver)
    request = chat.submit("Read it all. " * 60)
    driver.turn(3)
    driver.cancel(request)
    driver.run()
    again = chat.messages.pop()
    _, cached = chat.say(again["content"])
    assert cached >= 128
