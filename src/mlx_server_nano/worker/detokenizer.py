"""Tokens to text, one at a time, never half a character.

Special tokens come out as their text: the gateway's format machine needs the markers, and a reader would rather see an
odd token than miss one."""

from __future__ import annotations

import codecs
from typing import Any, Protocol

from mlx_server_nano.worker.vocabulary import Vocabulary

_REPLACEMENT = "\ufffd"


class Detokenizer(Protocol):
    """`add` gives the text that the token completes, `flush` what is left at the end."""

    def add(self, token_id: int) -> str: ...

    def flush(self) -> str: ...

    @property
    def pending(self) -> bool:
        """Whether bytes of an unfinished character are held."""
        ...


class ByteDetokenizer:
    """For vocabularies with exact bytes: an incremental UTF-8 decoder over them. Invalid bytes become U+FFFD."""

    def __init__(self, vocabulary: Vocabulary, *, strip_leading_space: bool) -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._strip = strip_leading_space

    def add(self, token_id: int) -> str:
        data = self._vocabulary.bytes_of(token_id)
        if self._strip and data:
            self._strip = False
            data = data.removeprefix(b" ")
        return self._decoder.decode(data)

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)

    @property
    def pending(self) -> bool:
        return bool(self._decoder.getstate()[0])


class WindowDetokenizer:
    """For other tokenizers: decodes a short window twice and emits the difference, as their decoding may depend on
    context."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._before = 0
        self._emitted = 0

    def add(self, token_id: int) -> str:
        self._ids.append(token_id)
        old, new = self._decode(self._emitted), self._decode(None)
        if len(new) <= len(old) or new.endswith(_REPLACEMENT):
            return ""
        self._before, self._emitted = self._emitted, len(self._ids)
        return new[len(old) :]

    def flush(self) -> str:
        old, new = self._decode(self._emitted), self._decode(None)
        self._before = self._emitted = len(self._ids)
        return new[len(old) :]

    @property
    def pending(self) -> bool:
        return self._emitted < len(self._ids)

    def _decode(self, end: int | None) -> str:
        ids = self._ids[self._before : end]
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def make_detokenizer(tokenizer: Any, vocabulary: Vocabulary, *, continues_text: bool) -> Detokenizer:
    """continues_text: the output follows on plain text, so a leading space is part of it."""
    if not vocabulary.exact:
        return WindowDetokenizer(tokenizer)
    strip = vocabulary.strips_leading_space and not continues_text
    return ByteDetokenizer(vocabulary, strip_leading_space=strip)
