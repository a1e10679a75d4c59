"""From the first request for a model on the Hub to an answer, through every process."""

from __future__ import annotations

import concurrent.futures
import json

import httpx
import openai
import pytest

from tests.e2e.conftest import HELLO, PATIENCE, QWEN, stream, wait_until


def test_downloads_loads_and_chats(start, tmp_path):
    server = start("--spare-worker", HF_HOME=str(tmp_path))
    client = server.client
    assert [model.id for model in client.models.list().data] == ["demo"]
    whole = client.chat.completions.create(model=QWEN, messages=HELLO, max_tokens=12, temperature=0, logprobs=True, n=2)
    assert whole.usage is not None and whole.usage.completion_tokens == 24
    assert [choice.finish_reason for choice in whole.choices] == ["length", "length"]
    first, second = (choice.message.content for choice in whole.choices)
    assert first and first == second
    logprobs = whole.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    assert b"".join(bytes(token.bytes or []) for token in logprobs.content).decode(errors="replace") == first

    stream = client.chat.completions.create(
        model="tiny-qwen3",
        messages=HELLO,
        max_tokens=12,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == first
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 12
    details = chunks[-1].usage.prompt_tokens_details
    assert details is not None and details.cached_tokens == chunks[-1].usage.prompt_tokens - 1

    assert [model.id for model in client.models.list().data] == ["demo", QWEN]
    assert client.models.retrieve(QWEN).id == QWEN
    (status,) = server.health()["models"]
    assert (status["id"], status["state"], status["running"]) == (QWEN, "ready", 0)


def test_prefixes_outlive_an_unload_and_a_restart(start, tmp_path):
    messages = [{"role": "user", "content": "One, two, three, four, five. " * 40}]

    def ask(server) -> tuple[str | None, int]:
        answer = server.client.chat.completions.create(model=QWEN, messages=messages, max_tokens=5, temperature=0)
        assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
        left = answer.usage.prompt_tokens - (answer.usage.prompt_tokens_details.cached_tokens or 0)
        return answer.choices[0].message.content, left

    flags = ("--prefix-cache-dir", str(tmp_path / "prefixes"))
    server = start(*flags, "--idle-timeout", "0.2")
    expected, left = ask(server)
    assert left > 256
    wait_until(lambda: server.health()["models"] == [])
    assert ask(server) == (expected, 1)
    server.stop()
    for speeds in tmp_path.rglob("payoff.json"):
        speeds.unlink()  # or so small a file might be computed sooner
    assert ask(start(*flags)) == (expected, 1)


def test_the_same_seed_in_any_company(start):
    server = start("--max-batch-size", "8")

    def ask(seed: int) -> str:
        answer = server.client.chat.completions.create(
            model=QWEN, messages=HELLO, max_tokens=30, temperature=1, seed=seed, top_p=0.95
        )
        return answer.choices[0].message.content or ""

    alone = [ask(seed) for seed in range(4)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ask, [*range(4), *range(4)]))
    assert together == alone * 2
    assert len(set(alone)) == 4


def test_two_models_side_by_side(start):
    server = start("--spare-worker")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(
            pool.map(
                lambda model: server.client.chat.completions.create(model=model, messages=HELLO, max_tokens=5),
                [QWEN, "mlx-community/Tiny-Llama-bf16"] * 2,
            )
        )
    assert all(answer.usage.completion_tokens for answer in answers)
    assert {model["state"] for model in server.health()["models"]} == {"ready"}


def test_idle_models_are_unloaded(start):
    server = start("--idle-timeout", "0.5")
    with stream(server) as events:
        next(events)
        assert server.children()
    wait_until(lambda: not server.health()["models"] and not server.children())
    server.client.chat.completions.create(model=QWEN, messages=HELLO, max_tokens=2)


def test_what_cannot_be_had(start):
    server = start()
    for model, status, code in (
        ("mlx-community/Nothing", 404, "model_not_found"),
        ("someone/Gated", 403, "model_access_denied"),
        ("/no/such/folder", 404, "model_not_found"),
    ):
        with pytest.raises(openai.APIStatusError) as caught:
            server.client.chat.completions.create(model=model, messages=HELLO)
        assert (caught.value.status_code, caught.value.code) == (status, code), model
    assert server.health()["status"] == "healthy"


def test_context_and_queue_limits(start):
    server = start("--max-batch-size", "1", "--max-queue", "1")
    long = [{"role": "user", "content": "word " * 5000}]
    with pytest.raises(openai.BadRequestError) as caught:
        server.client.chat.completions.create(model=QWEN, messages=long)
    assert caught.value.code == "context_length_exceeded" and "4096" in str(caught.value)

    def ask() -> int:
        body = {"model": QWEN, "messages": HELLO, "max_tokens": 40, "temperature": 0}
        return httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=PATIENCE).status_code

    (worker,) = server.children()
    worker.suspend()  # so that nothing is finished before all have asked
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask) for _ in range(8)]
        wait_until(lambda: sum(future.done() for future in asked) == 6)
        worker.resume()
    assert sorted(future.result() for future in asked) == [200] * 2 + [429] * 6


def test_tools_and_schemas_are_enforced(start):
    server = start()
    schema = {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 8},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
        },
        "required": ["city", "days"],
        "additionalProperties": False,
    }
    tools = [{"type": "function", "function": {"name": "forecast", "parameters": schema, "strict": True}}]
    think_little = {"thinking_budget": 4}  # a random model that begins to think does not end
    for seed in range(4):
        answer = server.client.chat.completions.create(
            model=QWEN,
            messages=HELLO,
            tools=tools,
            tool_choice="required",
            extra_body=think_little,
            parallel_tool_calls=False,
            temperature=1,
            seed=seed,
        )
        (choice,) = answer.choices
        assert choice.finish_reason == "tool_calls" and choice.message.tool_calls is not None
        (call,) = choice.message.tool_calls
        arguments = json.loads(call.function.arguments)
        assert arguments.keys() == {"city", "days"} and 1 <= arguments["days"] <= 9 and len(arguments["city"]) <= 8
        answer = server.client.chat.completions.create(
            model=QWEN,
            messages=HELLO,
            temperature=1,
            seed=seed,
            extra_body=think_little,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        )
        assert json.loads(answer.choices[0].message.content).keys() == {"city", "days"}


def test_a_format_by_name(start):
    server = start("--tool-format", "*/Tiny-Llama-*=hermes")
    tools = [{"type": "function", "function": {"name": "clock"}}]
    ask = {"messages": HELLO, "tools": tools, "tool_choice": "required", "extra_body": {"thinking_budget": 4}}
    answer = server.client.chat.completions.create(
        model="mlx-community/Tiny-Llama-bf16", parallel_tool_calls=False, **ask
    )
    assert [call.function.name for call in answer.choices[0].message.tool_calls or []] == ["clock"]
