from __future__ import annotations

import json

import pytest

from tests.api.conftest import Running
from tests.api.fakes import Script, started, text
from tests.cli.conftest import Command


@pytest.fixture
def figures(command: Command, server: Running, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setattr("mlx_server_nano.cli.bench.memory_bandwidth", lambda: 5e9)
    server.manager.scripts["demo"] = Script(lambda request: [started(), *text(*"abc")])
    return command


def test_figures(figures: Command, server: Running) -> None:
    done = json.loads(figures("bench", "demo", "--json").output)
    assert (done["model"], done["memory_bytes_per_second"]) == ("demo", 5e9)
    assert done["weights_bytes"] > 1 << 20
    assert [line["prompt_tokens"] for line in done["prefill"]] == [128, 512, 2048]
    assert [line["streams"] for line in done["decode"]] == [1, 2, 4, 8]
    assert all(line["tokens_per_second"] > 0 for line in (*done["prefill"], *done["decode"]))
    # One to warm up; two rounds of each length, and of each number of streams.
    assert len(server.manager.requests) == 1 + 2 * 3 + 2 * (1 + 2 + 4 + 8)


def test_figures_for_people(figures: Command) -> None:
    told = figures("bench", "demo").output
    for word in ("weights of", "PROMPT TOKENS", "STREAMS", "1.0 x", "The memory gives 5.0 GB/s"):
        assert word in told
