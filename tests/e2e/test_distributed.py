"""A model on two ranks, through the whole server. The ranks are processes of this machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from tests.e2e.conftest import ServerProcess, stream, wait_until
from tests.tiny_models import make_model

LONG = {"max_tokens": 4000, "temperature": 0, "stream": True, "logit_bias": {"0": -100}}


def chat(server: ServerProcess, model: str, text: str, tokens: int = 6) -> str:
    chunks = server.client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": text}],
        max_tokens=tokens,
        temperature=0,
        stream=True,
    )
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def rank(server: ServerProcess, number: int) -> psutil.Process:
    """Of the ranks of the one model that is split."""
    ranks = [child for child in server.children() if "--leader" in child.cmdline() and "python" in child.name()]
    return next(process for process in ranks if process.environ()["MLX_RANK"] == str(number))


def test_two_ranks_through_the_server(start: Callable[..., ServerProcess], tmp_path: Path) -> None:
    hosts = tmp_path / "hosts.json"
    hosts.write_text(json.dumps([{"ssh": "127.0.0.1", "ips": ["127.0.0.1"]}] * 2))
    config = tmp_path / "nano.toml"
    # In single precision: what is summed in another order must not round to another token.
    model = str(make_model(tmp_path / "llama", "llama", "mini-dense-llama-3.1"))
    config.write_text(f'alias = ["alone={model}"]\n[models.alone]\ndistributed = "none"\n')
    server = start("--config", str(config), "--distributed", str(hosts))
    texts = ["Hello there.", "What is the time?", "Once upon a time"]
    expected = [chat(server, "alone", text) for text in texts]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda text: chat(server, model, text), texts)) == expected

    ask = {"model": model, "messages": [{"role": "user", "content": "Hello there."}], **LONG}
    with stream(server, ask) as events:
        next(events)
    wait_until(lambda: server.running() == 0)

    with stream(server, ask) as events:
        next(events)
        rank(server, 1).kill()
        rest = list(events)
    assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "worker_died"
    assert chat(server, model, texts[0]) == expected[0]
    assert server.stop() == 0
