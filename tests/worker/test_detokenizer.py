"""Tokens to text, one at a time: the pieces together are what the tokenizer makes of all tokens at once, and no piece
holds half a character."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import pytest

from mlx_server_nano.worker.detokenizer import ByteDetokenizer, Detokenizer, WindowDetokenizer, make_detokenizer
from mlx_server_nano.worker.vocabulary import Vocabulary
from tests.tiny_models import assets

TOKENIZERS = [
    "codellama-34b-instruct-llama2-spm",
    "gemma-4-it",
    "gpt-oss",
    "mistral-7b-instruct-v0.3-spm",
    "mistral-tekken-v13-devstral-2507",
    "qwen3",
]
# llama.cpp's texts and the ids that it makes of them.
GOLDEN = {"codellama-34b-instruct-llama2-spm": "llama-spm", "gemma-4-it": "gemma-4", "qwen3": "qwen2"}


class WithoutDecoder:
    """Hides what a vocabulary can be read from, as a tokenizer written in Python does."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def decode(self, ids: list[int], **options: Any) -> str:
        return str(self._tokenizer.decode(ids, **options))


def decode(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def pieces(detokenizer: Detokenizer, ids: list[int]) -> list[str]:
    return [*(detokenizer.add(i) for i in ids), detokenizer.flush()]


def both(tokenizer: Any) -> list[Detokenizer]:
    """As for the answer to a chat, whose text starts anew."""
    return [
        make_detokenizer(tokenizer, Vocabulary(tokenizer), continues_text=False),
        make_detokenizer(WithoutDecoder(tokenizer), Vocabulary(WithoutDecoder(tokenizer)), continues_text=False),
    ]


def golden(name: str) -> list[str]:
    folder = assets() / "tokenizers" / "golden"
    texts = (folder / f"ggml-vocab-{name}.gguf.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    return [text for text in texts if text]


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest, real_tokenizer: Callable[[str], Any]) -> Any:
    return real_tokenizer(request.param)


def test_the_kinds(tokenizer):
    exact, window = both(tokenizer)
    assert isinstance(exact, ByteDetokenizer)
    assert isinstance(window, WindowDetokenizer)


def test_golden_texts_come_out_whole(tokenizer):
    for text in golden("llama-bpe"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        expected = decode(tokenizer, ids)
        for detokenizer in both(tokenizer):
            parts = pieces(detokenizer, ids)
            assert "".join(parts) == expected
            assert not any("\ufffd" in part for part in parts)
            assert not detokenizer.pending


@pytest.mark.parametrize("name", GOLDEN)
def test_ids_of_another_tokenizer_implementation_come_out_as_their_text(name, real_tokenizer):
    tokenizer = real_tokenizer(name)
    ids_of = (assets() / "tokenizers" / "golden" / f"ggml-vocab-{GOLDEN[name]}.gguf.out").read_text().splitlines()
    for text, line in zip(golden(GOLDEN[name]), [line for line in ids_of if line.strip()], strict=False):
        ids = [int(i) for i in line.split()]
        detokenizer = make_detokenizer(tokenizer, Vocabulary(tokenizer), continues_text=False)
        assert "".join(pieces(detokenizer, ids)).strip() == text.strip()


def once(text: str) -> str:
    """Decoders count the replacement characters of one broken sequence differently."""
    return re.sub("\ufffd+", "\ufffd", text)


def test_random_tokens_come_out_as_the_tokenizer_decodes_them(tokenizer):
    rng = random.Random(1)
    special = list(tokenizer.added_tokens_decoder)[:40]
    broken = 0
    for _ in range(150):
        ids = [rng.randrange(len(tokenizer)) for _ in range(rng.randint(1, 12))] + rng.sample(special, 2)
        rng.shuffle(ids)
        expected = decode(tokenizer, ids)
        broken += "\ufffd" in expected
        for detokenizer in both(tokenizer):
            assert once("".join(pieces(detokenizer, ids))) == once(expected)
    assert broken < 100, "too few sequences were valid text for this to mean anything"


def test_half_a_character_waits_for_the_rest(tokenizer):
    text = "𓀀é\U0001f9ab"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) > 3
    for detokenizer in both(tokenizer):
        sent = ""
        waited = False
        for token_id in ids:
            sent += detokenizer.add(token_id)
            assert text.startswith(sent.strip())
            waited |= detokenizer.pending
        assert waited and not detokenizer.pending
        assert sent.strip() == text


def test_an_unfinished_character_is_not_lost(tokenizer):
    ids = tokenizer.encode("ab\U0001f9ab", add_special_tokens=False)[:-1]
    for detokenizer in both(tokenizer):
        parts = pieces(detokenizer, ids)
        assert "".join(parts[:-1]) == "ab"
        assert parts[-1].strip("\ufffd") == "" != parts[-1]
        assert detokenizer.flush() == ""


def test_a_completion_keeps_its_leading_space(real_tokenizer):
    tokenizer = real_tokenizer("codellama-34b-instruct-llama2-spm")
    ids = tokenizer.encode("Hello world", add_special_tokens=False)
    vocabulary = Vocabulary(tokenizer)
    chat = make_detokenizer(tokenizer, vocabulary, continues_text=False)
    completion = make_detokenizer(tokenizer, vocabulary, continues_text=True)
    assert "".join(pieces(chat, ids)) == "Hello world"
    assert "".join(pieces(completion, ids)) == " Hello world"


def test_only_the_first_token_loses_a_space(real_tokenizer):
    tokenizer = real_tokenizer("codellama-34b-instruct-llama2-spm")
    space = tokenizer.convert_tokens_to_ids("▁")
    for ids in ([space, space], [space, tokenizer.bos_token_id or 1, space], [1, space]):
        detokenizer = make_detokenizer(tokenizer, Vocabulary(tokenizer), continues_text=False)
        assert "".join(pieces(detokenizer, ids)) == decode(tokenizer, ids)


def test_a_token_without_text_leaves_the_space_to_be_dropped_with_the_next(real_tokenizer):
    tokenizer = real_tokenizer("codellama-34b-instruct-llama2-spm")
    padding = len(tokenizer) + 7  # models pad their vocabularies
    detokenizer = make_detokenizer(tokenizer, Vocabulary(tokenizer), continues_text=False)
    assert "".join(pieces(detokenizer, [padding, tokenizer.convert_tokens_to_ids("▁Hello")])) == "Hello"


class Tidying:
    """A tokenizer that tidies spaces unless it is told not to, as older configurations ask for."""

    words = (" Hello", " ,", " world")

    def decode(self, ids: list[int], *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool = True) -> str:
        text = "".join(self.words[i] for i in ids)
        return text.replace(" ,", ",") if clean_up_tokenization_spaces else text


def test_spaces_are_not_tidied_up():
    assert pieces(WindowDetokenizer(Tidying()), [0, 1, 2]) == [" Hello", " ,", " world", ""]
