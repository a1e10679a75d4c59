"""What a lease fills in before a request goes to the worker."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_server_nano.chat.model import ChatModel
from mlx_server_nano.config.models import RequestDefaults
from mlx_server_nano.errors import InvalidRequestError
from mlx_server_nano.models.lease import Lease, Loaded
from mlx_server_nano.types import Detokenize, GenerationRequest, Sampling, TextPrompt
from tests.models import fake_worker


class Recorder:
    """A worker that does nothing."""

    open_choices = 0

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def generate(self, *requests: Any) -> None:
        self.requests += requests


def leased(defaults: RequestDefaults) -> tuple[Lease, Recorder]:
    worker: Any = Recorder()
    return Lease("m", Loaded(worker, fake_worker.INFO, ChatModel(fake_worker.INFO)), 4, defaults), worker


def test_what_a_request_says_beats_the_defaults() -> None:
    lease, worker = leased(RequestDefaults(temperature=0.3, top_k=5, presence_penalty=1, max_tokens=9))
    prompt = TextPrompt(text="")
    lease.generate(GenerationRequest(prompt=prompt), GenerationRequest(prompt=prompt, max_tokens=0))
    lease.generate(GenerationRequest(prompt=prompt, sampling=Sampling(temperature=0, top_k=0, top_p=0.5, seed=1)))
    filled = Sampling(temperature=0.3, top_k=5, presence_penalty=1)
    own = Sampling(temperature=0, top_k=0, top_p=0.5, presence_penalty=1, seed=1)
    assert [(request.sampling, request.max_tokens) for request in worker.requests] == [
        (filled, 9),
        (filled, 0),
        (own, 9),
    ]


def test_without_defaults_a_request_stays_as_it_is() -> None:
    lease, worker = leased(RequestDefaults())
    asked: list[Any] = [GenerationRequest(prompt=TextPrompt(text="")), Detokenize(ids=(1,))]
    lease.generate(*asked)
    assert worker.requests == asked


def test_the_chat_is_the_names_own() -> None:
    lease, _ = leased(RequestDefaults(tool_format="hermes"))
    assert lease.chat.format.name == "hermes"
    with pytest.raises(InvalidRequestError, match="no tool format 'x'"):
        leased(RequestDefaults(tool_format="x"))
