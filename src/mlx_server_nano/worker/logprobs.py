"""Log-probabilities, for the rows that asked for them: of the model's own distribution, before penalties, bias and
temperature."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from typing import Any

import mlx.core as mx

from mlx_server_nano.types import Alternative, TokenLogprob
from mlx_server_nano.worker.sequence import Sequence
from mlx_server_nano.worker.vocabulary import Vocabulary


class LogprobReader:
    """What logits have to say about the tokens that follow them. Lazy until `read`."""

    def __init__(self, counts: dict[int, int], logits: mx.array, tokens: mx.array) -> None:
        """counts: how many alternatives each row wants, by its index. logits `[rows, vocabulary]`, tokens `[rows]`: of
        these rows only, in this order."""
        self._counts = counts
        values = logits.astype(mx.float32)
        values = values - mx.logsumexp(values, axis=-1, keepdims=True)
        self._tokens = tokens
        self._chosen = mx.take_along_axis(values, self._tokens[:, None], axis=-1)[:, 0]
        self.arrays = [self._tokens, self._chosen]
        self._top_ids: mx.array | None = None
        if most := min(max(counts.values()), values.shape[-1]):
            ids = mx.argpartition(-values, kth=most - 1, axis=-1)[:, :most]
            top = mx.take_along_axis(values, ids, axis=-1)
            order = mx.argsort(-top, axis=-1)
            self._top_ids = mx.take_along_axis(ids, order, axis=-1)
            self._top = mx.take_along_axis(top, order, axis=-1)
            self.arrays += [self._top_ids, self._top]

    @classmethod
    def of(cls, sequences: Rows[Sequence], logits: mx.array, tokens: mx.array) -> LogprobReader | None:
        """None if no row asked. logits `[rows, vocabulary]` or `[rows, width, vocabulary]`, tokens likewise: a row's index is
        that of its first token then, times the width."""
        width = tokens.shape[1] if tokens.ndim > 1 else 1
        counts = {
            i * width + at: sequence.logprobs
            for i, sequence in enumerate(sequences)
            if sequence.logprobs is not None
            for at in range(width)
        }
        if not counts:
            return None
        index = mx.array(list(counts))
        return cls(counts, logits.reshape(-1, logits.shape[-1])[index], tokens.reshape(-1)[index])

    @classmethod
    def of_prompt(cls, logits: mx.array, following: list[int], count: int) -> LogprobReader:
        """logits `[tokens, vocabulary]` of a part of a prompt, and the token that follows each of its tokens."""
        return cls(dict.fromkeys(range(len(following)), count), logits, mx.array(following, dtype=mx.uint32))

    def read(self, vocabulary: Vocabulary) -> dict[int, TokenLogprob]:
        """By row index."""
        tokens: Any = self._tokens.tolist()
        chosen: Any = self._chosen.tolist()
        top_ids: Any = [[]] * len(tokens)
        top: Any = top_ids
        if self._top_ids is not None:
            top_ids, top = self._top_ids.tolist(), self._top.tolist()
        found: dict[int, TokenLogprob] = {}
        for i, (row, count) in enumerate(self._counts.items()):
            alternatives = tuple(
                Alternative(vocabulary.bytes_of(token), logprob)
                for token, logprob in list(zip(top_ids[i], top[i], strict=True))[:count]
            )
            found[row] = TokenLogprob(vocabulary.bytes_of(tokens[i]), chosen[i], alternatives)
        return found
