"""Log-probabilities in OpenAI's shape (ChatCompletionTokenLogprob)."""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct

from mlx_server_nano.types import Alternative, TokenLogprob

LOWEST: Final = -9999.0  # OpenAI's number for "as good as never"; JSON has no minus infinity


class TopLogprob(Struct):
    """A token may be a part of a character: `bytes` is exact, `token` then shows U+FFFD."""

    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(TopLogprob):
    """The chosen token, and the likeliest ones in its place."""

    top_logprobs: list[TopLogprob]


def to_openai(logprob: TokenLogprob) -> ChatTokenLogprob:
    top = [TopLogprob(**_fields(alternative)) for alternative in logprob.top]
    return ChatTokenLogprob(**_fields(logprob), top_logprobs=top)


def _fields(token: TokenLogprob | Alternative) -> dict[str, Any]:
    text = token.token.decode(errors="replace")
    return {"token": text, "logprob": max(token.logprob, LOWEST), "bytes": list(token.token)}
