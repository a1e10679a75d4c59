"""Ranks that run one model together: their journal, and two of them over MLX's ring on loopback."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_server_nano.errors import Failure, UnsupportedModelError
from mlx_server_nano.protocol import (
    Allow,
    Cancel,
    Delta,
    Failed,
    Generate,
    Load,
    LoadFailed,
    LoadOptions,
    Ready,
    to_frame,
)
from mlx_server_nano.types import GenerationRequest, Sampling, Tokenize, TokenPrompt
from mlx_server_nano.worker import distributed, launch
from mlx_server_nano.worker.channel import Inbox
from mlx_server_nano.worker.distributed import Follower, Hello, Leader, Shared
from mlx_server_nano.worker.scheduler import Prepared
from tests.worker.conftest import Tiny
from tests.worker.harness import Driver
from tests.worker.test_process import Process

LAUNCH = [sys.executable, "-m", "mlx_server_nano.worker.launch"]


class Pair:
    """The only group that needs no other process."""

    def __init__(self, rank: int = 0) -> None:
        self._rank = rank

    def rank(self) -> int:
        return self._rank

    def size(self) -> int:
        return 2


class Silent:
    def send(self, message: Any) -> None:
        raise AssertionError(message)


@pytest.fixture
def ranks() -> Iterator[tuple[Leader, Follower, list[Any]]]:
    """Rank 0 and rank 1, and what rank 1 hands on at once."""
    ours, theirs = socket.socketpair()
    leader = Leader(Pair(), [], Silent())  # type: ignore[arg-type]
    leader._followers = [ours]  # without its watch, which would end this process
    follower = Follower(Pair(1), theirs)  # type: ignore[arg-type]
    delivered: list[Any] = []
    with ours, theirs:
        yield leader, follower, delivered
    del leader, follower


def replay(follower: Follower, delivered: list[Any]) -> None:
    """Read what lies in the socket, on this thread."""
    follower._leader.setblocking(False)
    with pytest.raises(SystemExit), pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "_exit", sys.exit)
        follower._read(delivered.append)


def request() -> GenerationRequest:
    return GenerationRequest(prompt=TokenPrompt(ids=(1, 2)))


def prepared(number: int) -> Prepared:
    return Prepared(request_id=number, request=request(), ids=[1, 2], tail="", continues_text=True)


def test_followers_replay_what_rank_0_takes_in(ranks: tuple[Leader, Follower, list[Any]]) -> None:
    leader, follower, delivered = ranks
    inbox: Inbox[Any] = Inbox()
    for message in (prepared(2), Cancel(1), Allow(5), (3, None)):
        inbox.put(message)
    taken = leader.take(inbox, wait=True)
    assert len(taken) == 4 and leader.agree(17) == 17
    replay(follower, delivered)

    own: Inbox[Any] = Inbox()
    own.put(prepared(1))  # cancelled on rank 0 before it was taken
    own.put(mine := prepared(2))
    assert follower.take(own, wait=False) == [mine, Cancel(1), Allow(5)]
    assert follower.agree(99) == 17 and not delivered


def test_prompts_are_told_ahead_and_questions_are_not(ranks: tuple[Leader, Follower, list[Any]]) -> None:
    leader, follower, delivered = ranks
    folder = Path.home() / "models" / "m"
    leader.forward(load := Load(str(folder), LoadOptions(log_name="m")))
    leader.forward(Generate(1, Tokenize(text="a", add_special=False, parse_special=False)))
    leader.forward(generate := Generate(2, request()))
    leader.forward(Cancel(2))
    replay(follower, delivered)
    assert delivered == [load, generate]
    assert distributed._portable(str(folder)) == "~/models/m" and distributed._portable("/srv/m") == "/srv/m"


def test_a_follower_that_has_lost_its_way_ends(
    ranks: tuple[Leader, Follower, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, follower, delivered = ranks
    leader.agree(1)
    replay(follower, delivered)
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as end:
        follower.take(Inbox(), wait=True)
    assert end.value.code == 1


def test_strangers_are_sent_away() -> None:
    secret = b"s" * 16
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        said = [
            b"GET / HTTP/1.1\r\n\r\n",
            *(to_frame(Hello(r, s)) for r, s in ((1, b"x" * 16), (7, secret), (1, secret))),
        ]
        callers = [socket.create_connection(address) for _ in said]
        for caller, words in zip(callers, said, strict=True):
            caller.sendall(words)
            caller.shutdown(socket.SHUT_WR)
        (found,) = distributed._accept(server, secret, 1)
        assert found.getpeername() == callers[-1].getsockname()
        for connection in (found, *callers):
            connection.close()


@pytest.mark.parametrize(
    ("heads", "words"),
    [
        ({"num_attention_heads": 4, "num_key_value_heads": 1}, "its 1 key value heads don't divide"),
        ({"text_config": {"num_attention_heads": 3}}, "its 3 attention heads don't divide"),
    ],
)
def test_heads_that_do_not_divide(heads: dict[str, Any], words: str) -> None:
    class Model:
        def shard(self, group: Any) -> None:
            raise AssertionError

    with pytest.raises(UnsupportedModelError, match=words):
        Shared(Pair()).split(Model(), {"model_type": "m", **heads})  # type: ignore[arg-type]


def test_a_model_that_can_not_be_split() -> None:
    with pytest.raises(UnsupportedModelError, match="type 'mamba2' over several machines"):
        Shared(Pair()).split(object(), {"model_type": "mamba2"})  # type: ignore[arg-type]


@pytest.fixture
def two_ranks(tmp_path: Path) -> Iterator[Process]:
    hosts = tmp_path / "hosts.json"
    hosts.write_text(json.dumps({"backend": "ring", "hosts": [{"ssh": "127.0.0.1", "ips": ["127.0.0.1"]}] * 2}))
    process = Process([*LAUNCH, "--hostfile", str(hosts)])
    try:
        process.expect(Ready)
        yield process
    finally:
        process.close()
        process.child.communicate(timeout=100)


@pytest.mark.parametrize("arch", ["qwen3", "qwen3_next"])
def test_two_ranks_say_what_one_does(
    two_ranks: Process, tiny: Tiny, tiny_folder: Callable[..., Path], arch: str
) -> None:
    """Tensor-parallel, and as a pipeline of layers with states; together, with a seed, with a cached prefix, with much
    and with little memory."""
    sampled = Sampling(temperature=1.0, seed=7, top_p=0.9)
    requests = [
        GenerationRequest(prompt=TokenPrompt(ids=tuple(range(10, 10 + length))), max_tokens=8, sampling=sampling)
        for length, sampling in ((40, Sampling(temperature=0)), (9, Sampling(temperature=0)), (5, sampled))
    ]
    driver = Driver(tiny(arch))
    numbers = [driver.submit(request) for request in requests]
    driver.run()
    expected = [driver.answers()[number, 0].text for number in numbers]

    two_ranks.load(tiny_folder(arch), speculation=False)
    for limit, first in ((64 << 30, 1), (64 << 20, 11)):
        two_ranks.send(Allow(limit))
        for number, asked in enumerate(requests, first):
            two_ranks.send(Generate(number, asked))
        texts = dict.fromkeys(range(first, first + 3), "")
        unfinished = set(texts)
        for event in two_ranks.events():
            assert not isinstance(event, Failed), event
            if isinstance(event, Delta):
                texts[event.request_id] += event.text
                unfinished -= {event.request_id} if event.finish else set()
            if not unfinished:
                break
        assert list(texts.values()) == expected
    two_ranks.send(Generate(20, GenerationRequest(prompt=TokenPrompt(ids=(3,)), max_tokens=4000)))
    for event in two_ranks.events():
        if isinstance(event, Delta):
            break
    two_ranks.send(Cancel(20))
    two_ranks.send(Generate(21, requests[1]))
    text = ""
    for event in two_ranks.events():
        if isinstance(event, Delta) and event.request_id == 21:
            text += event.text
            if event.finish:
                break
    assert text == expected[1]


def test_models_that_start_at_a_time_get_ports_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_PORTS", range(20000, 20040))
    with contextlib.ExitStack() as claims:
        firsts = sorted(launch._free_ports(3, claims) for _ in range(4))
    assert all(second - first >= 3 for first, second in itertools.pairwise(firsts))


def test_a_load_that_fails_on_another_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []

    class Gateway:
        send = said.append

    ours, theirs = socket.socketpair()
    monkeypatch.setattr(os, "_exit", sys.exit)
    with ours, theirs, pytest.raises(SystemExit):
        Follower(Pair(1), theirs).send(LoadFailed(Failure("ModelLoadError", "No such folder")))  # type: ignore[arg-type]
        distributed._watch(ours, 1, Gateway())  # type: ignore[arg-type]
    assert said == [LoadFailed(Failure("ModelLoadError", "Rank 1: No such folder"))]
