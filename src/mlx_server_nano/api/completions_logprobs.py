"""Log-probabilities in the shape of OpenAI's older API: four lists of equal length."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from msgspec import Struct

from mlx_server_nano.api.logprobs import LOWEST
from mlx_server_nano.protocol import Echo
from mlx_server_nano.types import TokenLogprob


class LegacyLogprobs(Struct):
    """An entry of `top_logprobs` holds the token itself beside the most likely ones.
    text_offset: where in the choice's text the token begins, in characters. The first token of an echoed prompt has
    null for both probabilities."""

    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] = []
    text_offset: list[int] = []


class LogprobWriter:
    """One choice's tokens, in order: it counts the characters."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def echo(self, echo: Echo) -> LegacyLogprobs:
        offsets = _offsets(echo.text, [echo.first_token, *(logprob.token for logprob in echo.logprobs)])
        written = LegacyLogprobs([_name(echo.first_token)], [None], [None], offsets)
        for logprob in echo.logprobs:
            _append(written, logprob)
        self._offset = len(echo.text)
        return written

    def write(self, logprobs: Sequence[TokenLogprob]) -> LegacyLogprobs:
        written = LegacyLogprobs()
        for logprob in logprobs:
            written.text_offset.append(self._offset)
            self._offset += len(self._decoder.decode(logprob.token))
            _append(written, logprob)
        return written


def _append(written: LegacyLogprobs, logprob: TokenLogprob) -> None:
    name, value = _name(logprob.token), max(logprob.logprob, LOWEST)
    top = {_name(other.token): max(other.logprob, LOWEST) for other in reversed(logprob.top)}
    top.setdefault(name, value)
    written.tokens.append(name)
    written.token_logprobs.append(value)
    written.top_logprobs.append(dict(sorted(top.items(), key=lambda entry: -entry[1])))


def _name(token: bytes) -> str:
    """OpenAI's way to write a token that is no text by itself: `bytes:\\xe2\\x82`."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def _offsets(text: str, tokens: Sequence[bytes]) -> list[int]:
    """Where tokens begin in the text that they were made of. Those that the tokenizer has added take no room there, nor does
    the space that some put in front."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    offsets: list[int] = []
    at = 0
    for token in tokens:
        offsets.append(at)
        piece = decoder.decode(token)
        if text.startswith(piece, at):
            at += len(piece)
        elif at == 0 and piece.startswith(" ") and text.startswith(piece[1:]):
            at += len(piece) - 1
    return offsets
