"""Clients that behave: every dialect, tools, schemas, long prompts, embeddings. What they know they compare."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import dataclass
from typing import Any, Final

import httpx

from benchmarks import prompts
from benchmarks.soak.dialects import Dialect, Question, ask, put, refusal
from benchmarks.soak.journal import WrongError

DEMO: Final = "demo"
_ASKED_OF_THE_DEMO: Final = (
    "Hello, what can you do?",
    "What is 456 + 789?",
    "Count from 1 to 10.",
    "Anna Berg is 41 years old and works as a pilot. Extract name, age and job as JSON.",
)
_TOOLS: Final = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
                "required": ["city", "unit"],
                "additionalProperties": False,
            },
        },
    }
]
_SCHEMA: Final = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
_TOLERANCE: Final = 1e-3


@dataclass(slots=True)
class Known:
    """Answers that were got while nothing else ran."""

    said: dict[tuple[Dialect, Question], str]
    vector: list[float]


class Clients:
    """Asks one thing at a time, drawn by `draw`. others: models beside the demo."""

    def __init__(self, http: httpx.AsyncClient, others: list[str], draw: random.Random) -> None:
        self._http = http
        self._draw = draw
        self._known = Known({}, [])
        spoken = [Question(DEMO, prompt, 160) for prompt in _ASKED_OF_THE_DEMO]
        written = [
            Question(model, prompts.text(seed, words), 40)
            for model in others
            for seed, words in enumerate((20, 60, 200, 1500))
        ]
        self._questions = [
            *itertools.product((Dialect.CHAT, Dialect.RESPONSES, Dialect.MESSAGES), spoken),
            *itertools.product((Dialect.CHAT, Dialect.COMPLETIONS), written),
        ]

    async def learn(self) -> None:
        """Get the answers that will be compared."""
        for dialect, question in self._questions:
            self._known.said[dialect, question] = await put(self._http, dialect, question, stream=False)
        self._known.vector = await self._embed()

    def only(self, models: list[str]) -> None:
        """Ask for no others from now on."""
        self._questions = [asked for asked in self._questions if asked[1].model in models]

    async def known(self) -> str:
        """A question whose answer is known; returns the model. Raises as `put`, with WrongError for another answer."""
        dialect, question = self._draw.choice(self._questions)
        answer = await put(self._http, dialect, question, stream=self._draw.random() < 0.6)
        expected = self._known.said[dialect, question]
        if answer != expected:
            raise WrongError(f"{dialect} {question.model} {question.prompt[:30]!r}: {answer!r}, not {expected!r}")
        return question.model

    async def tool(self) -> None:
        answer = await ask(
            self._http,
            "/v1/chat/completions",
            {
                **_message("What is the weather in Lisbon in celsius?"),
                "tools": _TOOLS,
                "tool_choice": "required",
                "parallel_tool_calls": False,
                "thinking_budget": 16,
                "max_tokens": 300,
            },
        )
        (choice,) = answer["choices"]
        if choice["finish_reason"] == "length":
            return
        for call in choice["message"]["tool_calls"] or [{"function": {"arguments": "{}"}}]:
            arguments = json.loads(call["function"]["arguments"])
            if arguments.keys() != {"city", "unit"} or arguments["unit"] not in ("celsius", "fahrenheit"):
                raise WrongError(f"a call with {arguments}")

    async def schema(self) -> None:
        wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": _SCHEMA}}
        request = _message("Anna Berg is 41 years old. Extract name and age as JSON.")
        request |= {"response_format": wanted, "temperature": 1, "reasoning_effort": "none", "max_tokens": 200}
        (choice,) = (await ask(self._http, "/v1/chat/completions", request))["choices"]
        if choice["finish_reason"] == "stop" and json.loads(choice["message"]["content"]).keys() != {"name", "age"}:
            raise WrongError(f"an object of another schema: {choice['message']['content']}")

    async def several(self) -> None:
        """Choices, log-probabilities and a seed in one request: the same seed gives the same text."""
        request = _message("Tell me something.") | {"n": 3, "seed": 7, "temperature": 1, "logprobs": True}
        answer = await ask(self._http, "/v1/chat/completions", request | {"max_tokens": 20})
        if [choice["index"] for choice in answer["choices"]] != [0, 1, 2]:
            raise WrongError("not three choices")
        if not all(choice["logprobs"]["content"] for choice in answer["choices"]):
            raise WrongError("no log-probabilities")

    async def embeddings(self) -> None:
        vector = await self._embed()
        if max(abs(a - b) for a, b in zip(vector, self._known.vector, strict=True)) > _TOLERANCE:
            raise WrongError("another vector for the same text")

    async def _embed(self) -> list[float]:
        answer = await ask(self._http, "/v1/embeddings", {"model": DEMO, "input": ["one text", "another one"]})
        vector: list[float] = answer["data"][0]["embedding"]
        return vector

    async def kept(self) -> None:
        """A response that is kept, gone on from, and deleted."""
        request = {"model": DEMO, "input": "Remember that my name is Tilda Moss.", "max_output_tokens": 100}
        first = (await ask(self._http, "/v1/responses", request))["id"]
        again = {"model": DEMO, "input": "What is my name?", "previous_response_id": first, "store": False}
        await ask(self._http, "/v1/responses", again)
        gone = await self._http.delete(f"/v1/responses/{first}")
        if gone.status_code != 200:
            raise refusal(gone.status_code, gone.content)

    async def look(self) -> None:
        """What monitors ask for, and pages."""
        for path in ("/health", "/metrics", "/v1/models", "/openapi.json", "/docs", "/"):
            response = await self._http.get(path)
            if response.status_code != 200 and path != "/health":
                raise WrongError(f"{path}: {response.status_code}")

    async def mistaken(self) -> None:
        """Requests that are refused, with the field's name."""
        for change, param in (({"temperature": 99}, "temperature"), ({"n": "x"}, "n"), ({"messages": []}, "messages")):
            response = await self._http.post("/v1/chat/completions", json=_message("hi") | change)
            if response.status_code != 400 or response.json()["error"]["param"] != param:
                raise WrongError(f"{change}: {response.status_code} {response.text[:100]}")


def _message(text: str) -> dict[str, Any]:
    return {"model": DEMO, "messages": [{"role": "user", "content": text}]}
