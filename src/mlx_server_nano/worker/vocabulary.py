"""The bytes behind each token.

Text is only exact on bytes: a token may hold half a character. Two vocabularies cover nearly every model: byte-level
BPE, where each character of an entry stands for one byte (GPT-2's table), and SentencePiece with byte fallback, where
`▁` is a space and `<0x0A>` one byte. Anything else has no byte table, and `exact` says so."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from enum import Enum
from functools import cache, cached_property
from typing import Any

_SPACE = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
_MARKUP = re.compile(r"<\S+>\Z")
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")


class Scheme(Enum):
    """How an entry's characters stand for bytes."""

    BYTE_LEVEL = "byte_level"
    SENTENCE_PIECE = "sentence_piece"
    UNKNOWN = "unknown"


@cache
def _byte_level_table() -> dict[str, int]:
    """GPT-2's mapping: printable Latin-1 characters stand for themselves, the others for 256 and up, in order."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in set(kept)]
    return {chr(byte): byte for byte in kept} | {chr(256 + i): byte for i, byte in enumerate(moved)}


def _decoders(tokenizer: Any) -> list[dict[str, Any]]:
    """The steps by which the tokenizer makes text of its entries, as they stand in `tokenizer.json`."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.decoder is None:
        return []
    decoder: dict[str, Any] = json.loads(backend.decoder.__getstate__())
    return list(decoder["decoders"]) if decoder["type"] == "Sequence" else [decoder]


class Vocabulary:
    """Token ids to bytes, for one tokenizer.

    `strips_leading_space` says that the tokenizer's decoder drops a space in front of the whole text (Llama 2's way).
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._bytes: dict[int, bytes] = {}
        decoders = _decoders(tokenizer)
        kinds = {decoder["type"] for decoder in decoders} - {"Fuse"}
        self.scheme = Scheme.UNKNOWN
        if kinds == {"ByteLevel"}:
            self.scheme = Scheme.BYTE_LEVEL
        elif kinds - {"Strip"} == {"Replace", "ByteFallback"} and _SPACE in decoders:
            self.scheme = Scheme.SENTENCE_PIECE
        self.strips_leading_space = any(d["type"] == "Strip" and d["content"] == " " and d["start"] for d in decoders)

    @property
    def exact(self) -> bool:
        return self.scheme is not Scheme.UNKNOWN

    @cached_property
    def special(self) -> dict[str, int]:
        """The tokens that are markup, not text: those flagged so, and added ones that look like `<this>`, which many
        tokenizers forget to flag."""
        added = getattr(self._tokenizer, "added_tokens_decoder", {})
        return {t.content: int(i) for i, t in added.items() if t.special or _MARKUP.match(t.content)}

    def bytes_of(self, token_id: int) -> bytes:
        """The token's bytes; b"" for an id without an entry (models pad their vocabulary)."""
        found = self._bytes.get(token_id)
        if found is None:
            found = self._bytes[token_id] = self._look_up(token_id)
        return found

    def text_of(self, token_ids: Sequence[int]) -> str:
        """Markup included; bytes that are no UTF-8 become U+FFFD."""
        if not self.exact:
            return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=False))
        text = b"".join(map(self.bytes_of, token_ids)).decode(errors="replace")
        return text.removeprefix(" ") if self.strips_leading_space else text

    def _look_up(self, token_id: int) -> bytes:
        if self.scheme is Scheme.UNKNOWN:
            return str(self._tokenizer.decode([token_id])).encode()
        piece = self._tokenizer.convert_ids_to_tokens(token_id)
        if piece is None:
            return b""
        if self.scheme is Scheme.SENTENCE_PIECE:
            match = _BYTE_PIECE.match(piece)
            return bytes([int(match[1], 16)]) if match else piece.replace("▁", " ").encode()
        table = _byte_level_table()
        try:
            return bytes(table[char] for char in piece)
        except KeyError:  # an added token, which stands for itself
            return str(piece).encode()
