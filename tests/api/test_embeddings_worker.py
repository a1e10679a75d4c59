"""Embeddings from a real worker: a model in the way of Qwen3-Embedding, whose tokenizer ends each text with a token and
whose files ask for that token's state."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import openai
import pytest
from mlx_lm.utils import load
from tokenizers import Tokenizer

from tests.api.conftest import Serving

END = "<|endoftext|>"


@pytest.fixture(scope="module")
def folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "embedder"
    shutil.copytree(tiny_folder, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    end = next(token["id"] for token in tokenizer["added_tokens"] if token["content"] == END)
    shape = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": END, "type_id": 0}}]
    ending = {
        "type": "TemplateProcessing",
        "single": shape,
        "pair": [*shape, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {END: {"id": END, "ids": [end], "tokens": [END]}},
    }
    tokenizer["post_processor"] = {"type": "Sequence", "processors": [tokenizer["post_processor"], ending]}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    types = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    (folder / "modules.json").write_text(
        json.dumps([{"path": path, "type": f"sentence_transformers.models.{name}"} for path, name in types])
    )
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_lasttoken": True}))
    return folder


@pytest.fixture
def client(real_server: Serving) -> Iterator[openai.OpenAI]:
    with real_server.client(timeout=240) as client:
        yield client


def last_states(folder: Path, texts: list[list[int]]) -> np.ndarray:
    model: Any = load(str(folder))[0]
    return np.stack([np.array(model.model(mx.array([ids]))[0, -1]) for ids in texts])


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_texts(client: openai.OpenAI, folder: Path) -> None:
    texts = ["short", "A rather longer text, so that padding has something to spoil. " * 20, "naïve 🦊"]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = [tokenizer.encode(text).ids for text in texts]
    assert {text[-1] for text in ids} == {tokenizer.token_to_id(END)}
    together = client.embeddings.create(model=str(folder), input=texts)
    assert together.usage.prompt_tokens == sum(map(len, ids))
    vectors = np.array([entry.embedding for entry in together.data])
    states = last_states(folder, ids)
    np.testing.assert_allclose(vectors, unit(states), rtol=1e-3, atol=1e-5)
    as_ids = client.embeddings.create(model=str(folder), input=ids, encoding_format="float")
    np.testing.assert_allclose([entry.embedding for entry in as_ids.data], vectors, rtol=1e-4, atol=1e-6)
    short = client.embeddings.create(model=str(folder), input=texts, dimensions=10)
    np.testing.assert_allclose([e.embedding for e in short.data], unit(states[:, :10]), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "param", "code"),
    [
        ({"dimensions": 65}, "dimensions", None),
        ({"input": [[1], [99999]]}, "input.1", None),
        ({"input": [1] * 5000}, "input", "context_length_exceeded"),
    ],
)
def test_refused_requests(client: openai.OpenAI, folder: Path, options: dict, param: str, code: str | None) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(**{"model": str(folder), "input": "a", **options})
    assert (caught.value.param, caught.value.code) == (param, code)


def test_a_chat_model_gives_the_mean_of_its_states(client: openai.OpenAI, tiny_folder: Path) -> None:
    answer = client.embeddings.create(model="tiny", input=[[5, 6, 7, 8]])
    model: Any = load(str(tiny_folder))[0]
    mean = np.array(model.model(mx.array([[5, 6, 7, 8]]))[0]).mean(axis=0)
    np.testing.assert_allclose(answer.data[0].embedding, mean / np.linalg.norm(mean), rtol=1e-3, atol=1e-5)
