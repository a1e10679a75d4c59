"""Log-probabilities in OpenAI's shape (ChatCompletionTokenLogprob)."""

from __future__ import annotations

from typing import Final

from mlx_server_nano.types import Alternative, TokenLogprob

LOWEST: Final = -9999.0  # OpenAI's number for "as good as never"; JSON has no minus infinity


def to_openai(logprob: TokenLogprob) -> dict[str, object]:
    """A token may be a part of a character: `bytes` is exact, `token` then shows U+FFFD."""
    return {**_entry(logprob), "top_logprobs": [_entry(alternative) for alternative in logprob.top]}


def _entry(token: TokenLogprob | Alternative) -> dict[str, object]:
    return {
        "token": token.token.decode(errors="replace"),
        "logprob": max(token.logprob, LOWEST),
        "bytes": list(token.token),
    }
