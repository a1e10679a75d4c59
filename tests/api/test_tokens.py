"""/tokenize, /detokenize and /apply-template, scripted and from a real worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from transformers import AutoTokenizer

from mlx_server_nano.errors import InvalidRequestError
from mlx_server_nano.protocol import Rendered, Tokenized
from mlx_server_nano.types import Detokenize, RenderChat, Tokenize
from tests.api.conftest import Running, Serving
from tests.api.fakes import Script

MESSAGES = [{"role": "user", "content": "hi"}]


def post(server: Serving, path: str, **body: Any) -> Any:
    response = httpx.post(f"{server.url}{path}", json=body, timeout=240)
    assert response.status_code == 200, response.text
    return response.json()


def refused(server: Serving, path: str, **body: Any) -> str | None:
    response = httpx.post(f"{server.url}{path}", json=body, timeout=240)
    assert response.status_code == 400, response.text
    return response.json()["error"]["param"]


def test_tokenize(server: Running) -> None:
    server.manager.scripts["m"] = Script(lambda _: [[Tokenized(0, (5, 6), (b"a ", b"\xe2\x82"))]])
    assert post(server, "/tokenize", model="m", content="a") == {"tokens": [5, 6]}
    pieces = post(server, "/tokenize", model="m", content="a", with_pieces=True, add_special=True, parse_special=False)
    assert pieces == {"tokens": [{"id": 5, "piece": "a "}, {"id": 6, "piece": [0xE2, 0x82]}]}
    assert server.manager.requests == [
        Tokenize(text="a", add_special=False, parse_special=True),
        Tokenize(text="a", add_special=True, parse_special=False),
    ]


def test_detokenize(server: Running) -> None:
    server.manager.scripts["m"] = Script(lambda _: [[Rendered(0, "ab")]])
    assert post(server, "/detokenize", model="m", tokens=[1, 2]) == {"content": "ab"}
    assert server.manager.requests == [Detokenize(ids=(1, 2))]


def test_apply_template(server: Running) -> None:
    server.manager.scripts["m"] = Script(lambda _: [[Rendered(0, "user: hi")]])
    kwargs = {"enable_thinking": False}
    assert post(server, "/apply-template", model="m", messages=MESSAGES, chat_template_kwargs=kwargs) == {
        "prompt": "user: hi"
    }
    (question,) = server.manager.requests
    assert isinstance(question, RenderChat)
    assert question.prompt.messages == ({"role": "user", "content": "hi"},)
    assert question.prompt.template_kwargs["enable_thinking"] is False


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {"content": 1}, "content"),
        ("/tokenize", {}, "content"),
        ("/detokenize", {"tokens": ["a"]}, "tokens.0"),
        ("/detokenize", {"tokens": [-1]}, "tokens.0"),
        ("/apply-template", {"messages": []}, "messages"),
        ("/apply-template", {"messages": MESSAGES, "tools": 1}, "tools"),
        # Two models are loaded.
        ("/tokenize", {"content": "a", "model": None}, "model"),
        ("/apply-template", {"messages": MESSAGES, "model": None}, "model"),
    ],
)
def test_refused_requests(server: Running, path: str, body: dict[str, Any], param: str) -> None:
    assert refused(server, path, **{"model": "m", **body}) == param
    assert server.manager.requests == []


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize", "/apply-template"])
def test_bodies_that_are_no_objects(server: Running, path: str) -> None:
    for body in (b"[]", b"{", b"\xff", b"null"):
        response = httpx.post(f"{server.url}{path}", content=body)
        assert response.status_code == 400, (body, response.text)


def test_a_worker_that_refuses(server: Running) -> None:
    error = InvalidRequestError("no such token", param="tokens")
    server.manager.scripts["m"] = Script(lambda _: [error])
    assert refused(server, "/detokenize", model="m", tokens=[99]) == "tokens"


def test_a_real_worker(real_server: Serving, tiny_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    text = "<|im_start|>naïve 🦊<|im_end|>"
    ids = tokenizer.encode(text)
    assert post(real_server, "/tokenize", model="tiny", content=text) == {"tokens": ids}
    assert post(real_server, "/detokenize", tokens=ids) == {"content": text}  # it is the only model
    as_text = post(real_server, "/tokenize", content=text, parse_special=False)["tokens"]
    assert not set(as_text) & {ids[0], ids[-1]}
    assert post(real_server, "/tokenize", content=text)["tokens"] == ids  # the switch was not for good
    pieces = post(real_server, "/tokenize", content=text, with_pieces=True)["tokens"]
    raw = [p["piece"].encode() if isinstance(p["piece"], str) else bytes(p["piece"]) for p in pieces]
    assert b"".join(raw).decode() == text
    assert refused(real_server, "/detokenize", tokens=[1 << 20]) == "tokens"
    prompt = post(real_server, "/apply-template", messages=MESSAGES, chat_template_kwargs={"enable_thinking": False})
    assert prompt["prompt"] == tokenizer.apply_chat_template(
        MESSAGES, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )


def test_half_a_surrogate_pair(server: Running) -> None:
    server.manager.scripts["m"] = Script(lambda _: [[Rendered(0, "x")]])
    body = rb'{"model": "m", "messages": [{"role": "user", "content": "\ud83d"}]}'
    assert httpx.post(f"{server.url}/apply-template", content=body).status_code == 200
    assert server.manager.requests[0].prompt.messages[0]["content"] == "\ufffd"


def test_a_counted_prompt_is_as_long_as_the_real_one(real_server: Serving) -> None:
    asked = {"model": "tiny", "max_tokens": 1, "messages": [{"role": "user", "content": "One — two"}]}
    used = post(real_server, "/v1/messages", **asked)["usage"]
    counted = post(real_server, "/v1/messages/count_tokens", **asked)
    assert counted == {"input_tokens": used["input_tokens"] + used["cache_read_input_tokens"]}
