"""Tokens to bytes, judged by the tokenizers' own decoders."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from mlx_server_nano.worker.vocabulary import Scheme, Vocabulary

SENTENCE_PIECE = ["codellama-34b-instruct-llama2-spm", "mistral-7b-instruct-v0.3-spm", "gemma-4-it"]
BYTE_LEVEL = ["qwen3", "gpt-oss", "mistral-tekken-v13-devstral-2507"]


@pytest.fixture(params=SENTENCE_PIECE + BYTE_LEVEL)
def named(request: pytest.FixtureRequest, real_tokenizer: Callable[[str], Any]) -> tuple[str, Any]:
    return request.param, real_tokenizer(request.param)


def decode(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def test_real_vocabularies_have_exact_bytes(named):
    name, tokenizer = named
    vocabulary = Vocabulary(tokenizer)
    assert vocabulary.exact
    assert vocabulary.scheme is (Scheme.SENTENCE_PIECE if name in SENTENCE_PIECE else Scheme.BYTE_LEVEL)
    assert vocabulary.strips_leading_space == (name in SENTENCE_PIECE[:2])
    size = len(tokenizer)
    special = list(tokenizer.added_tokens_decoder)[:50]
    for token_id in [*random.Random(0).sample(range(size), 1500), *special]:
        expected = decode(tokenizer, [token_id])
        if "\ufffd" in expected:  # half a character
            continue
        text = vocabulary.bytes_of(token_id).decode()
        assert expected in ((text, text[1:]) if text.startswith(" ") and vocabulary.strips_leading_space else (text,))
    assert vocabulary.bytes_of(size + 5) == b""


def test_every_byte_has_a_token(named):
    """Both schemes spell what they have no entry for byte by byte."""
    name, tokenizer = named
    vocabulary = Vocabulary(tokenizer)
    ids = [tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in range(256)]
    if name in BYTE_LEVEL:
        ids = [i for i in tokenizer.get_vocab().values() if len(vocabulary.bytes_of(i)) == 1]
        assert {vocabulary.bytes_of(i) for i in ids} == {bytes([byte]) for byte in range(256)}
    else:
        assert [vocabulary.bytes_of(i) for i in ids] == [bytes([byte]) for byte in range(256)]


PIECES = ["<unk>", "▁", "▁▁", "▁Hello", "lo", "▁<EOT>", "<0xC3>", "<0xA9>", "<0x0A>"]


def made(decoder: Any, *added: str) -> Any:
    backend = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(PIECES)}, merges=[], unk_token="<unk>"))
    backend.decoder = decoder
    backend.add_tokens([AddedToken(token, normalized=False) for token in added])
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def sentence_piece(*more: Any) -> Any:
    return decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *more])


def test_an_added_token_is_decoded_like_any_other():
    tokenizer = made(sentence_piece(), "▁<PRE>")
    token_id = tokenizer.convert_tokens_to_ids("▁<PRE>")
    assert decode(tokenizer, [token_id]) == " <PRE>"
    assert Vocabulary(tokenizer).bytes_of(token_id) == b" <PRE>"


@pytest.mark.parametrize(
    ("decoder", "strips"),
    [
        (sentence_piece(), False),
        (sentence_piece(decoders.Strip(" ", 1, 0)), True),
        (sentence_piece(decoders.Strip(" ", 0, 1)), False),
        (sentence_piece(decoders.Strip("_", 1, 0)), False),
    ],
)
def test_a_leading_space_is_stripped_only_where_the_decoder_does(decoder, strips):
    tokenizer = made(decoder)
    assert (decode(tokenizer, [3]) == "Hello") == strips
    vocabulary = Vocabulary(tokenizer)
    assert vocabulary.exact and vocabulary.strips_leading_space == strips


@pytest.mark.parametrize(
    "decoder",
    [
        decoders.Metaspace(prepend_scheme="never"),  # knows no bytes
        decoders.Metaspace(),  # strips more than one space
        decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()]),
        decoders.Sequence([decoders.Replace("_", " "), decoders.ByteFallback()]),
        decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)]),
        decoders.WordPiece(),
        None,
    ],
)
def test_other_decoders_are_left_to_themselves(decoder):
    tokenizer = made(decoder)
    vocabulary = Vocabulary(tokenizer)
    assert not vocabulary.exact
    assert vocabulary.bytes_of(4) == decode(tokenizer, [4]).encode()
