"""One question in each of the server's dialects, and what its answer says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import httpx

from benchmarks.soak.journal import RefusedError, WrongError


class Dialect(StrEnum):
    """The path behind /v1/."""

    CHAT = "chat/completions"
    RESPONSES = "responses"
    MESSAGES = "messages"
    COMPLETIONS = "completions"


@dataclass(frozen=True, slots=True)
class Question:
    """To be answered greedily."""

    model: str
    prompt: str
    tokens: int


def body(dialect: Dialect, question: Question, *, stream: bool) -> dict[str, Any]:
    common: dict[str, Any] = {"model": question.model, "temperature": 0, "stream": stream}
    messages = [{"role": "user", "content": question.prompt}]
    match dialect:
        case Dialect.CHAT | Dialect.MESSAGES:
            return {**common, "messages": messages, "max_tokens": question.tokens}
        case Dialect.RESPONSES:
            return {**common, "input": question.prompt, "max_output_tokens": question.tokens, "store": False}
        case Dialect.COMPLETIONS:
            return {**common, "prompt": question.prompt, "max_tokens": question.tokens}


def said(dialect: Dialect, answer: dict[str, Any]) -> str:
    """Reasoning and text of a whole answer, one after the other."""
    match dialect:
        case Dialect.CHAT:
            message = answer["choices"][0]["message"]
            return f"{message.get('reasoning_content') or ''}|{message['content'] or ''}"
        case Dialect.RESPONSES:
            parts = [(item["type"], part["text"]) for item in answer["output"] for part in item["content"] or ()]
            return _two(parts, "reasoning", "message")
        case Dialect.MESSAGES:
            blocks = [(block["type"], block.get("thinking") or block.get("text") or "") for block in answer["content"]]
            return _two(blocks, "thinking", "text")
        case Dialect.COMPLETIONS:
            return str(answer["choices"][0]["text"])


def _two(parts: list[tuple[str, str]], first: str, second: str) -> str:
    return "|".join("".join(text for kind, text in parts if kind == wanted) for wanted in (first, second))


class Streamed:
    """A streamed answer, event by event. `ended` once the dialect's last event has come."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._reasoning = ""
        self._text = ""
        self.ended = False

    def feed(self, line: str) -> None:
        """One line of the body. Raises RefusedError for an error in the stream."""
        if not line.startswith("data: "):
            return
        if line == "data: [DONE]":
            self.ended = True
            return
        event = json.loads(line[6:])
        kind = event.get("type", "")
        error = event["response"]["error"] if kind == "response.failed" else event.get("error")
        if error is not None:
            raise _refused(200, error)
        self.ended |= kind in ("message_stop", "response.completed", "response.incomplete")
        if self._dialect is Dialect.COMPLETIONS:
            self._text += "".join(choice["text"] for choice in event["choices"])
        elif self._dialect is Dialect.CHAT:
            for choice in event["choices"]:
                self._reasoning += choice["delta"].get("reasoning_content") or ""
                self._text += choice["delta"].get("content") or ""
        elif kind == "content_block_delta":
            self._reasoning += event["delta"].get("thinking", "")
            self._text += event["delta"].get("text", "")
        elif kind == "response.reasoning_text.delta":
            self._reasoning += event["delta"]
        elif kind == "response.output_text.delta":
            self._text += event["delta"]

    @property
    def said(self) -> str:
        return self._text if self._dialect is Dialect.COMPLETIONS else f"{self._reasoning}|{self._text}"


async def ask(http: httpx.AsyncClient, path: str, content: dict[str, Any]) -> dict[str, Any]:
    """A whole answer. Raises RefusedError."""
    response = await http.post(path, json=content)
    if response.status_code != 200:
        raise refusal(response.status_code, response.content)
    answer: dict[str, Any] = response.json()
    return answer


async def put(http: httpx.AsyncClient, dialect: Dialect, question: Question, *, stream: bool) -> str:
    """What the answer says. Raises RefusedError, and WrongError for a stream without its end."""
    path, content = f"/v1/{dialect}", body(dialect, question, stream=stream)
    if not stream:
        return said(dialect, await ask(http, path, content))
    streamed = Streamed(dialect)
    async with http.stream("POST", path, json=content) as response:
        if response.status_code != 200:
            raise refusal(response.status_code, await response.aread())
        async for line in response.aiter_lines():
            streamed.feed(line)
    if not streamed.ended:
        raise WrongError("the stream has no end")
    return streamed.said


def refusal(status: int, content: bytes) -> RefusedError:
    """An error's answer, in either shape. Raises WrongError for one in none."""
    try:
        error = json.loads(content)["error"]
        return _refused(status, error)
    except (ValueError, KeyError, TypeError) as fault:
        raise WrongError(f"{status} without an error in it: {content[:100]!r}") from fault


def _refused(status: int, error: dict[str, Any]) -> RefusedError:
    """Anthropic's errors have no code, and those of Responses' streams have one for all: their words tell."""
    known = {"The worker process": "worker_died", "needs about": "insufficient_memory", "No worker": "unavailable"}
    message: str = error["message"]
    told = next((code for words, code in known.items() if words in message), None)
    return RefusedError(status, told or error.get("code"), json.dumps(error))
