"""What goes wrong in one place stays there."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import os
import shutil
import signal
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from tests.e2e.conftest import LONG, PATIENCE, QWEN, ServerProcess, stream, wait_until


def complete(server: ServerProcess, model: str, prompt: str) -> httpx.Response:
    body = {"model": model, "prompt": prompt, "max_tokens": 3, "temperature": 0}
    return httpx.post(f"{server.url}/v1/completions", json=body, timeout=PATIENCE)


def chat(server, model: str, text: str = "Hello there.") -> str:
    answer = server.client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": text}], max_tokens=5, temperature=0
    )
    return answer.choices[0].message.content


def test_a_worker_killed_in_mid_stream(start):
    server = start()
    other = "mlx-community/Tiny-Llama-bf16"
    chat(server, other)
    (of_other,) = server.children()
    with stream(server) as events:
        for _ in range(5):
            next(events)
        (worker,) = set(server.children()) - {of_other}
        worker.kill()
        rest = list(events)
    assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "worker_died"
    assert "data: [DONE]" not in rest
    wait_until(lambda: [model["id"] for model in server.health()["models"]] == [other])
    assert chat(server, other)
    assert server.children() == [of_other]
    assert chat(server, QWEN)


def test_a_worker_killed_in_every_phase(start, faulty, tmp_path):
    """Its model stops at a point and says so; then the process is killed. The next request finds another one."""
    server = start("--trust-remote-code", "*", "--prefix-cache-dir", str(tmp_path / "shelf"))
    model = str(faulty)
    pauses = faulty / "pauses"
    prompts = {"load": "Hello there.", "prefill": "x <|fim_middle|> and more", "decode": "x <|fim_middle|>"}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for phase, prompt in prompts.items():
            pauses.write_text(phase)
            answers = [pool.submit(complete, server, model, prompt)]
            wait_until((faulty / "paused").exists)
            if phase != "load":
                answers.append(pool.submit(complete, server, model, "Another one."))
                wait_until(lambda: server.running() == 2)
            os.kill(int((faulty / "paused").read_text()), signal.SIGKILL)
            for answer in answers:
                response = answer.result()
                assert response.status_code == 500, (phase, response.text)
                assert response.json()["error"]["code"] == "worker_died" and "SIGKILL" in response.text
            (faulty / "paused").unlink()
            pauses.unlink()
            wait_until(lambda: server.health()["models"] == [])
            assert complete(server, model, prompt).status_code == 200


def test_a_worker_killed_while_it_unloads(start, tmp_path):
    server = start("--idle-timeout", "4", "--prefix-cache-dir", str(tmp_path))
    chat(server, QWEN)
    (worker,) = server.children()
    worker.suspend()  # so that it can't go by itself
    wait_until(lambda: [model["state"] for model in server.health()["models"]] == ["unloading"])
    assert chat(server, QWEN), "another worker has taken over, before the old one is gone"
    with contextlib.suppress(psutil.NoSuchProcess):  # on a slow machine, the server has lost its patience first
        worker.kill()
    wait_until(lambda: worker.pid not in {child.pid for child in server.children()})
    wait_until(lambda: server.health()["models"] == [] and not server.children())


def test_a_model_that_is_damaged_and_then_mended(start, hub, tmp_path):
    broken = Path(shutil.copytree(hub.repositories[QWEN.casefold()].folder, tmp_path / "broken"))
    weights = broken / "model-00002-of-00002.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    server = start()
    for _ in range(2):
        response = complete(server, str(broken), "Hello there.")
        assert response.status_code == 500 and response.json()["error"]["code"] == "model_load_failed"
    wait_until(lambda: not server.children() and server.health() == {"status": "healthy", "models": []})
    weights.write_bytes(whole)
    assert complete(server, str(broken), "Hello there.").status_code == 200


def test_a_failing_forward_pass_and_an_abort(start, faulty):
    server = start("--spare-worker", "--trust-remote-code", "*")
    model = str(faulty)
    before = chat(server, model)
    with pytest.raises(openai.InternalServerError) as caught:
        chat(server, model, "x <|fim_pad|>")
    assert caught.value.code == "generation_failed" and "a kernel failed" in str(caught.value)
    assert chat(server, model) == before, "the worker goes on"
    with pytest.raises(openai.InternalServerError) as caught:
        chat(server, model, "x <|repo_name|>")
    assert caught.value.code == "worker_died" and "SIGABRT" in str(caught.value)
    assert chat(server, model) == before, "another worker has taken over"


def test_code_of_a_repository_is_not_run_unasked(start, faulty):
    server = start()
    with pytest.raises(openai.BadRequestError) as caught:
        chat(server, str(faulty))
    assert caught.value.code == "model_not_supported" and "--trust-remote-code" in str(caught.value)


def test_a_client_that_leaves_frees_its_row(start):
    server = start()
    chat(server, QWEN)
    with stream(server) as events:
        next(events)
        assert server.running() == 1
    wait_until(lambda: server.running() == 0)
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    body = json.dumps({**LONG, "stream": False})
    connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
    wait_until(lambda: server.running() == 1)
    connection.close()
    wait_until(lambda: server.running() == 0)


def test_sigterm_lets_running_requests_finish(start):
    server = start("--shutdown-timeout", str(PATIENCE))
    chat(server, QWEN)
    (worker,) = server.children()
    worker.suspend()  # so that the request can't finish before its time

    def streamed() -> list[str]:
        with stream(server, {**LONG, "max_tokens": 300}) as events:
            return list(events)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(streamed)
        wait_until(lambda: server.running() == 1)
        server.signal(signal.SIGTERM)
        wait_until(lambda: httpx.get(f"{server.url}/health", timeout=PATIENCE).status_code == 503)
        refused = httpx.post(f"{server.url}/v1/chat/completions", json=LONG, timeout=PATIENCE)
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "unavailable"
        worker.resume()
    assert answer.result()[-1] == "data: [DONE]"
    assert server.end() == 0


def test_no_worker_outlives_the_gateway(start):
    server = start("--spare-worker")
    chat(server, QWEN)
    wait_until(lambda: len(server.children()) == 2)
    server.signal(signal.SIGKILL)
    assert server.end() == -signal.SIGKILL
