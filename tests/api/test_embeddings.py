"""Embeddings as the official client sees them, scripted."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import httpx
import pytest

from mlx_server_nano.protocol import Embedded
from mlx_server_nano.types import Embed, TextPrompt, TokenPrompt
from tests.api.conftest import Running
from tests.api.fakes import Script

VECTORS = ((0.5, -1.25, 3.0), (0.1, 0.2, 0.3))


@pytest.fixture
def embedding(server: Running) -> Running:
    def play(question: Any) -> Any:
        vectors = [struct.pack("<3f", *VECTORS[i % 2]) for i in range(len(question.inputs))]
        return [[Embedded(0, tuple(vectors), 11)]]

    server.manager.scripts["m"] = Script(play)
    return server


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_answer(embedding, validate, encoding):
    body = {"model": "m", "input": ["a", "b"], "encoding_format": encoding}
    answer = httpx.post(f"{embedding.url}/v1/embeddings", json=body).json()
    validate(answer, "CreateEmbeddingResponse")
    assert answer["usage"] == {"prompt_tokens": 11, "total_tokens": 11}
    assert [entry["index"] for entry in answer["data"]] == [0, 1]
    for entry, vector in zip(answer["data"], VECTORS, strict=True):
        value = entry["embedding"]
        if encoding == "base64":
            value = struct.unpack("<3f", base64.b64decode(value))
        assert value == pytest.approx(vector)


def test_the_client_asks_for_base64_by_itself(embedding):
    answer = embedding.client().embeddings.create(model="m", input="a")
    assert answer.data[0].embedding == pytest.approx(VECTORS[0])
    assert answer.model == "m"


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ("a", (TextPrompt(text="a"),)),
        (["a", "b"], (TextPrompt(text="a"), TextPrompt(text="b"))),
        ([1, 2], (TokenPrompt(ids=(1, 2)),)),
        ([[1], [2, 3]], (TokenPrompt(ids=(1,)), TokenPrompt(ids=(2, 3)))),
    ],
)
def test_forms_of_input(embedding, given, inputs):
    embedding.client().embeddings.create(model="m", input=given, dimensions=2)
    assert embedding.manager.requests == [Embed(inputs=inputs, dimensions=2)]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input.1"),
        ({"input": [[]]}, "input.0"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": ["a", 1]}, "input.1"),
        ({"input": None}, "input"),
        ({"dimensions": 0}, "dimensions"),
        ({"encoding_format": "int8"}, "encoding_format"),
    ],
)
def test_refused_requests(embedding, fields, param):
    response = httpx.post(f"{embedding.url}/v1/embeddings", json={"model": "m", "input": "a", **fields})
    assert (response.status_code, json.loads(response.text)["error"]["param"]) == (400, param)
    assert embedding.manager.requests == []
