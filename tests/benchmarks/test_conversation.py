import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
from benchmarks.conversation import Conversation, Talk
from benchmarks.figures import Answer, TroubleError
from benchmarks.servers import Server

from benchmarks import conversation

_SERVER = cast(Server, None)
_TALK = Talk(system=8, message=2, output=4, turns=2)


def answer(text: str) -> Answer:
    return Answer(sent=0.0, arrivals=(1.0, 2.0), tokens=2, text=text)


def test_every_answer_is_sent_back(monkeypatch):
    sent: list[list[str]] = []

    async def ask(server: Server, model: Path, messages: list[dict[str, str]], tokens: int) -> Answer:
        assert tokens == _TALK.output
        sent.append([message["role"] for message in messages])
        return answer(f"answer {len(sent)}")

    monkeypatch.setattr(conversation, "ask", ask)
    talk = Conversation(Path(), _TALK, lambda tokens: tokens, seed=1)
    assert [talk.say(_SERVER).text for _ in range(2)] == ["answer 1", "answer 2"]
    assert sent == [["system", "user"], ["system", "user", "assistant", "user"]]


@pytest.mark.parametrize(("pieces", "before"), [(20, 8), (2, 2)])
def test_the_others_are_sent_once_the_first_is_under_way_or_over(monkeypatch, pieces, before):
    said: list[str] = []

    async def ask(server: Server, model: Path, messages: Any, tokens: int, on_text: Any = lambda now: None) -> Answer:
        text = messages[0]["content"]
        for i in range(pieces):
            said.append(text)
            on_text(float(i))
            await asyncio.sleep(0)
        return answer(text)

    monkeypatch.setattr(conversation, "ask", ask)
    answers = asyncio.run(conversation.together(_SERVER, Path(), ["long", "short", "brief"], 4))
    assert [each.text for each in answers] == ["long", "short", "brief"]
    assert said.index("short") >= before
    assert "short" in said[: before + 3], "they are sent while the first goes on"


def test_a_trouble_is_raised_as_itself(monkeypatch):
    async def ask(*given: Any) -> Answer:
        raise TroubleError("status 500")

    monkeypatch.setattr(conversation, "ask", ask)
    with pytest.raises(TroubleError, match="500"):
        asyncio.run(conversation.together(_SERVER, Path(), ["long", "short"], 4))
