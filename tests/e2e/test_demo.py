"""What a user of the built-in model sees first: the examples, the endpoints, thinking, stop strings, JSON."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from mlx_server_nano.cli.examples import PROMPT
from tests.e2e.conftest import PATIENCE, ServerProcess, wait_until

SUM = "What is 456 + 789?"
COUNT = "Count from 1 to 10."
ANNA = "Anna Berg is 41 years old. She works as a pilot. Extract name, age and job as JSON."


class Person(BaseModel):
    name: str
    age: int
    job: str


def message(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def ask(server: ServerProcess, text: str, **more: Any) -> Any:
    """The first choice of an answer at the temperature of the model's own configuration, 0."""
    return server.client.chat.completions.create(model="demo", messages=message(text), **more).choices[0]


def streamed(server: ServerProcess, text: str, **more: Any) -> tuple[str, str, str | None]:
    """Content, reasoning and the reason for the end, put together from a stream."""
    content, reasoning, finish = "", "", None
    for chunk in server.client.chat.completions.create(
        model="demo", messages=message(text), stream=True, temperature=0, **more
    ):
        for choice in chunk.choices:
            content += choice.delta.content or ""
            reasoning += getattr(choice.delta, "reasoning_content", None) or ""
            finish = choice.finish_reason or finish
    return content, reasoning, finish


def test_the_examples_shown_at_the_start(demo):
    wait_until(lambda: any(line.startswith("print(") for line in list(demo.log)))  # they come after the address
    text = "\n".join(demo.log)
    curl, python = text[text.index("curl ") :].split("\n\n")[:2]
    answer = ask(demo, PROMPT).message.content
    assert "call tools" in answer
    if shutil.which("curl"):
        made = subprocess.run(["sh", "-c", curl], capture_output=True, check=True, timeout=PATIENCE)
        assert json.loads(made.stdout)["choices"][0]["message"]["content"] == answer
    code = python[: python.index("print(")] + "print(answer.choices[0].message.content)"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=PATIENCE)
    assert made.stdout.decode().strip() == answer


def test_it_is_listed_with_nothing_cached(demo):
    (only,) = demo.client.models.list().data
    assert (only.id, only.owned_by) == ("demo", "built-in")
    assert demo.client.models.retrieve("demo").id == "demo"


def test_every_endpoint_takes_its_name(demo):
    bodies: dict[str, dict[str, Any]] = {
        "/v1/completions": {"prompt": "The", "max_tokens": 4},
        "/v1/embeddings": {"input": ["one", "two"]},
        "/v1/responses": {"input": "Hello"},
        "/v1/responses/input_tokens": {"input": "Hello"},
        "/v1/messages": {"messages": message("Hello"), "max_tokens": 100},
        "/v1/messages/count_tokens": {"messages": message("Hello")},
        "/tokenize": {"content": "Hello"},
        "/detokenize": {"tokens": [300]},
        "/apply-template": {"messages": message("Hello")},
    }
    for path, body in bodies.items():
        response = httpx.post(f"{demo.url}{path}", json={"model": "demo", **body}, timeout=PATIENCE)
        assert response.status_code == 200, (path, response.text)


def test_thinking_on_and_off(demo):
    thinking = ask(demo, SUM)
    assert thinking.message.content == "456 + 789 = 1245"
    assert "6 + 9 = 15" in thinking.message.reasoning_content
    for off in ({"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}, {"reasoning_effort": "none"}):
        short = ask(demo, "What is 3 + 4?", **off)
        assert short.message.content == "3 + 4 = 7"
        assert not getattr(short.message, "reasoning_content", None)
    assert ask(demo, SUM, reasoning_effort="high").message.content == "456 + 789 = 1245"
    assert streamed(demo, SUM) == ("456 + 789 = 1245", thinking.message.reasoning_content, "stop")


def test_a_limit_on_thinking(demo):
    whole = demo.client.chat.completions.create(model="demo", messages=message(SUM))
    assert whole.usage.completion_tokens_details.reasoning_tokens > 20
    cut = demo.client.chat.completions.create(model="demo", messages=message(SUM), extra_body={"thinking_budget": 12})
    assert cut.usage.completion_tokens_details.reasoning_tokens <= 12 + 2  # and the two marks around them
    assert whole.choices[0].message.reasoning_content.startswith(cut.choices[0].message.reasoning_content)
    assert " = " in cut.choices[0].message.content, "it answers all the same"


@pytest.mark.parametrize(
    ("stop", "left"),
    [
        ([", 5"], "1, 2, 3, 4"),
        (["7,", "4, 5"], "1, 2, 3, "),
        (["11"], "1, 2, 3, 4, 5, 6, 7, 8, 9, 10"),
        ([" 10"], None),
    ],
)
def test_stop_strings(demo, stop, left):
    left = "1, 2, 3, 4, 5, 6, 7, 8, 9," if left is None else left
    off = {"reasoning_effort": "none", "stop": stop}
    choice = ask(demo, COUNT, **off)
    assert (choice.message.content, choice.finish_reason) == (left, "stop")
    assert streamed(demo, COUNT, **off) == (left, "", "stop")


def test_a_stop_string_is_not_looked_for_in_the_reasoning(demo):
    assert "456" in ask(demo, SUM).message.reasoning_content
    assert ask(demo, SUM, stop=[" = 1245"]).message.content == "456 + 789"


@pytest.mark.parametrize("effort", ["none", "medium"])
def test_json(demo, effort):
    wanted = Person(name="Anna Berg", age=41, job="pilot")
    free = ask(demo, ANNA, reasoning_effort=effort, response_format={"type": "json_object"})
    assert json.loads(free.message.content) == wanted.model_dump()
    parsed = demo.client.chat.completions.parse(
        model="demo", messages=message(ANNA), response_format=Person, reasoning_effort=effort
    )
    assert parsed.choices[0].message.parsed == wanted
    response = demo.client.responses.parse(model="demo", input=ANNA, text_format=Person, reasoning={"effort": effort})
    assert response.output_parsed == wanted


def test_a_schema_rules_even_where_the_model_would_write_something_else(demo):
    schema = {"type": "object", "properties": {"greeting": {"enum": ["hello", "bye"]}}, "required": ["greeting"]}
    closed = {"type": "json_schema", "json_schema": {"name": "g", "schema": {**schema, "additionalProperties": False}}}
    assert ask(demo, "Hello").message.content == "Hello! How can I help you?"
    content = ask(demo, "Hello", response_format=closed).message.content
    assert json.loads(content)["greeting"] in ("hello", "bye")


def test_facts_are_remembered_and_personas_kept(demo):
    history = [
        *message("Remember that my name is Tilda Moss."),
        {"role": "assistant", "content": "Noted."},
        *message("What is my name?"),
    ]
    answer = demo.client.chat.completions.create(model="demo", messages=history)
    assert answer.choices[0].message.content == "Your name is Tilda Moss."
    french = demo.client.chat.completions.create(
        model="demo", messages=[{"role": "system", "content": "Answer only in French."}, *message("Hello!")]
    )
    assert french.choices[0].message.content == "Bonjour ! Comment puis-je vous aider ?"
    first = demo.client.responses.create(model="demo", input="Remember that my name is Tilda Moss.")
    assert first.output_text == "I'll remember that."
    second = demo.client.responses.create(model="demo", input="What is my name?", previous_response_id=first.id)
    assert second.output_text == "Your name is Tilda Moss."
