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
    """What one step has to say about its rows' tokens. Lazy until `read`."""

    def __init__(self, rows: list[int], sequences: Rows[Sequence], logits: mx.array, tokens: mx.array) -> None:
        self._rows = rows
        self._counts = [sequences[row].logprobs or 0 for row in rows]
        index = mx.array(rows)
        values = logits[index].astype(mx.float32)
        values = values - mx.logsumexp(values, axis=-1, keepdims=True)
        self._tokens = tokens[index]
        self._chosen = mx.take_along_axis(values, self._tokens[:, None], axis=-1)[:, 0]
        self.arrays = [self._tokens, self._chosen]
        self._top_ids: mx.array | None = None
        if most := min(max(self._counts), values.shape[-1]):
            ids = mx.argpartition(-values, kth=most - 1, axis=-1)[:, :most]
            top = mx.take_along_axis(values, ids, axis=-1)
            order = mx.argsort(-top, axis=-1)
            self._top_ids = mx.take_along_axis(ids, order, axis=-1)
            self._top = mx.take_along_axis(top, order, axis=-1)
            self.arrays += [self._top_ids, self._top]

    @classmethod
    def of(cls, sequences: Rows[Sequence], logits: mx.array, tokens: mx.array) -> LogprobReader | None:
        """None if no row asked. logits `[rows, vocabulary]`, tokens `[rows]`."""
        rows = [i for i, sequence in enumerate(sequences) if sequence.logprobs is not None]
        return cls(rows, sequences, logits, tokens) if rows else None

    def read(self, vocabulary: Vocabulary) -> dict[int, TokenLogprob]:
        """By row index."""
        tokens: Any = self._tokens.tolist()
        chosen: Any = self._chosen.tolist()
        top_ids: Any = [[]] * len(tokens)
        top: Any = top_ids
        if self._top_ids is not None:
            top_ids, top = self._top_ids.tolist(), self._top.tolist()
        found: dict[int, TokenLogprob] = {}
        for i, row in enumerate(self._rows):
            alternatives = tuple(
                Alternative(vocabulary.bytes_of(token), logprob)
                for token, logprob in list(zip(top_ids[i], top[i], strict=True))[: self._counts[i]]
            )
            found[row] = TokenLogprob(vocabulary.bytes_of(tokens[i]), chosen[i], alternatives)
        return found
