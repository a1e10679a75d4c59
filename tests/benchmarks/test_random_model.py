"""A tiny random model must not end its answers early: rates count on full length."""

import json
import random
from typing import Any

import pytest

from benchmarks import random_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("micro")
    random_model.make(path, random_model.SHAPES["micro"], dtype="float32")
    return path


def test_the_end_and_invisible_tokens_are_out_of_reach(folder):
    import mlx.core as mx
    from tokenizers import Tokenizer

    weights: Any = mx.load(str(folder / "model.safetensors"))
    head = weights["model.embed_tokens.weight"]
    reachable: Any = mx.any(head != 0, axis=1).tolist()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert not reachable[json.loads((folder / "config.json").read_text())["eos_token_id"]]
    ids = [i for i, yes in enumerate(reachable) if yes]
    assert len(ids) > 100
    assert all(tokenizer.decode([i]).isprintable() for i in ids)
    answer = random.Random(0).choices(ids, k=200)
    back = tokenizer.encode(f"<|start|>assistant\n{tokenizer.decode(answer)}<|end|>", add_special_tokens=False).ids
    assert back[-201:-1] == answer, "an answer that is sent back must become the tokens that it was"


def test_the_tokenizer_keeps_text_as_it_is(folder):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode("bada  gin\nà 🙂").ids) == "bada  gin\nà 🙂"
