"""Sampling for a whole batch at once: every row has its own parameters, and no row pays for what only another asks.

In this order: penalties and bias on the logits; temperature; top-k; top-p over what top-k left; min-p against the
likeliest token. The draw is an inverse cumulative distribution with one uniform number a row, from that row's own
counter-based generator (Philox): a row with a seed draws the same numbers alone and in any batch."""

from __future__ import annotations

import math
from collections.abc import Sequence as Rows

import mlx.core as mx
import numpy as np

from mlx_server_nano.worker.sequence import RowSampling, Sequence

_BELOW_ONE = 1.0 - 2.0**-24
# Below this every model is greedy, and the logits would leave single precision's range.
_LOWEST_TEMPERATURE = 1e-6


class Sampler:
    """Chooses tokens for these rows. Made anew when the rows change; what a row has drawn lives in its sequence.

    A call takes logits `[rows, vocabulary]`, the rows' last tokens `[rows]` and, where a grammar rules, the allowed tokens
    as bits `[rows, vocabulary / 32]`; it gives tokens `[rows]`, lazy. `verify` is for several tokens of each row.
    """

    def __init__(self, rows: Rows[Sequence], vocab_size: int) -> None:
        self._rows = rows = list(rows)
        params = [row.sampling for row in rows]
        self._bias = _bias(params, vocab_size)
        self._penalties = _Penalties(rows, vocab_size) if any(p.penalized for p in params) else None
        self._choose = Choice(params, vocab_size)
        self._vocab_size = vocab_size

    def __call__(self, logits: mx.array, last: mx.array, allowed: mx.array | None = None) -> mx.array:
        logits = logits.astype(mx.float32)
        if self._penalties is not None:
            logits = self._penalties(logits, last)
        if self._bias is not None:
            logits = logits + self._bias
        if allowed is not None:
            logits = mx.where(unpacked(allowed, logits.shape[-1]), logits, -math.inf)
        return self._choose(logits, [row.draw() if row.sampling.temperature > 0 else 0.0 for row in self._rows])

    def verify(self, logits: mx.array, inputs: mx.array, allowed: mx.array | None = None) -> mx.array:
        """What each row says after its last token and, in case that they come, after each of its drafted ones.

        logits `[rows, width, vocabulary]` after inputs `[rows, width]`, allowed `[rows, width, vocabulary / 32]`; tokens
        `[rows, width]`. The rows' own tokens become known later: `keep` must follow."""
        count, width, size = logits.shape
        logits = logits.astype(mx.float32)
        if self._penalties is not None:
            logits = self._penalties.ahead(logits, inputs)
        if self._bias is not None:
            logits = logits + self._bias[:, None]
        flat = logits.reshape(-1, size)
        if allowed is not None:
            flat = mx.where(unpacked(allowed.reshape(count * width, -1), size), flat, -math.inf)
        choose = Choice([row.sampling for row in self._rows for _ in range(width)], self._vocab_size)
        uniform = [
            row.draw(ahead) if row.sampling.temperature > 0 else 0.0 for row in self._rows for ahead in range(width)
        ]
        return choose(flat, uniform).reshape(count, width)

    def keep(self, tokens: Rows[Rows[int]]) -> None:
        """These drafted tokens of each row have come true."""
        if self._penalties is not None:
            self._penalties.count(tokens)


class Choice:
    """The draw from logits: argmax, or temperature, the filters and the inverse distribution."""

    def __init__(self, params: Rows[RowSampling], vocab_size: int) -> None:
        self._random = [p.temperature > 0 for p in params]
        self._any_random = any(self._random)
        self._all_random = all(self._random)
        if not self._any_random:
            return
        self._is_random = mx.array(self._random)
        self._inverse_temperature = _column(
            [1 / max(p.temperature, _LOWEST_TEMPERATURE) if p.temperature > 0 else 1.0 for p in params]
        )
        self._min_p = _column([p.min_p for p in params]) if any(p.min_p > 0 for p in params) else None
        filtered = [p for p in params if p.temperature > 0 and (p.top_k > 0 or p.top_p < 1)]
        self._filtered = bool(filtered)
        self._unfiltered = any(p.temperature > 0 and not (p.top_k > 0 or p.top_p < 1) for p in params)
        self._is_filtered = mx.array([p.top_k > 0 or p.top_p < 1 for p in params])
        kept = [min(p.top_k or vocab_size, vocab_size) for p in params]
        self._top_k = mx.array([[k] for k in kept])
        self._top_p = _column([p.top_p for p in params])
        self._candidates = max((min(p.top_k or vocab_size, vocab_size) for p in filtered), default=vocab_size)

    def __call__(self, logits: mx.array, uniform: Rows[float]) -> mx.array:
        """Tokens `[n]` of logits `[n, vocabulary]`."""
        if not self._any_random:
            return mx.argmax(logits, axis=-1).astype(mx.uint32)
        drawn = _column(uniform)
        scaled = logits * self._inverse_temperature
        tokens = self._draw_filtered(scaled, drawn) if self._filtered else self._draw_all(scaled, drawn)
        if self._filtered and self._unfiltered:
            tokens = mx.where(self._is_filtered, tokens, self._draw_all(scaled, drawn))
        if not self._all_random:
            tokens = mx.where(self._is_random, tokens, mx.argmax(logits, axis=-1))
        return tokens.astype(mx.uint32)

    def _draw_all(self, scaled: mx.array, uniform: mx.array) -> mx.array:
        weights = mx.softmax(scaled, axis=-1)
        if self._min_p is not None:
            weights = mx.where(weights < self._min_p * weights.max(axis=-1, keepdims=True), 0.0, weights)
        return draw(weights, uniform)

    def _draw_filtered(self, scaled: mx.array, uniform: mx.array) -> mx.array:
        """Top-k and top-p need the tokens in order, but only as many as the largest top-k."""
        vocab_size = scaled.shape[-1]
        if self._candidates < vocab_size:
            ids = mx.argpartition(-scaled, kth=self._candidates - 1, axis=-1)[:, : self._candidates]
            ids = mx.take_along_axis(ids, mx.argsort(-mx.take_along_axis(scaled, ids, axis=-1), axis=-1), axis=-1)
        else:
            ids = mx.argsort(-scaled, axis=-1)
        ordered = mx.take_along_axis(scaled, ids, axis=-1)
        ordered = mx.where(mx.arange(ids.shape[-1]) < self._top_k, ordered, -math.inf)
        weights = mx.softmax(ordered, axis=-1)
        before = mx.cumsum(weights, axis=-1) - weights
        # The first token always stays, whatever top_p is.
        weights = mx.where((before < self._top_p) | (mx.arange(ids.shape[-1]) == 0), weights, 0.0)
        if self._min_p is not None:
            weights = mx.where(weights < self._min_p * weights[:, :1], 0.0, weights)
        return mx.take_along_axis(ids, draw(weights, uniform)[:, None], axis=-1)[:, 0]


def unpacked(bits: mx.array, n: int) -> mx.array:
    """Bools `[rows, n]` from 32-bit words `[rows, words]`, lowest bit first; False past the last word, as models pad their
    vocabulary."""
    spread = ((bits[:, :, None] >> mx.arange(32, dtype=bits.dtype)) & 1).reshape(bits.shape[0], -1)
    missing = max(0, n - spread.shape[1])
    return mx.pad(spread, [(0, 0), (0, missing)])[:, :n] != 0


def draw(weights: mx.array, uniform: mx.array) -> mx.array:
    """Indices `[rows]` drawn in proportion to `weights` `[rows, n]` by `uniform` `[rows, 1]` in [0, 1).

    In two levels, a block and then an entry of it: one running sum over a hundred thousand small numbers would lose the
    tail to rounding. Entries without weight are left out by name: a parallel running sum need not rise evenly, so one
    of them could seem to have a share."""
    rows, n = weights.shape
    width = max(1, math.isqrt(n - 1) + 1)
    blocks = -(-n // width)
    padded = mx.pad(weights, [(0, 0), (0, blocks * width - n)]).reshape(rows, blocks, width)
    sums = padded.sum(axis=-1)
    ends = mx.where(sums > 0, mx.cumsum(sums, axis=-1), 0.0)
    target = uniform * ends.max(axis=-1, keepdims=True)
    block = mx.argmax(ends > target, axis=-1, keepdims=True)
    rest = target - (mx.take_along_axis(ends, block, axis=-1) - mx.take_along_axis(sums, block, axis=-1))
    entries = mx.take_along_axis(padded, block[:, :, None], axis=1)[:, 0]
    inside = mx.where(entries > 0, mx.cumsum(entries, axis=-1), 0.0)
    # Rounding may put the rest at or past the block's end: it then means the block's last entry with any weight.
    rest = mx.clip(rest, 0.0, inside.max(axis=-1, keepdims=True) * _BELOW_ONE)
    return (block * width + mx.argmax(inside > rest, axis=-1, keepdims=True))[:, 0]


class _Penalties:
    """Counts of what each row has seen. A row's last token is counted at the step that takes it in: the host may not
    know it when the counts are made. A row's first step takes in its prompt's last token, which is counted with the
    prompt."""

    def __init__(self, rows: Rows[Sequence], vocab_size: int) -> None:
        prompt = np.zeros((len(rows), vocab_size), dtype=np.bool_)
        counts = np.zeros((len(rows), vocab_size), dtype=np.float32)
        for i, row in enumerate(rows):
            if row.sampling.penalized:
                prompt[i, row.prompt] = True
                np.add.at(counts[i], row.output[: max(0, row.launched - 1)], 1)
        self._rows = rows
        self._prompt = mx.array(prompt)
        self._counts = mx.array(counts)
        self._index = mx.arange(len(rows))
        params = [row.sampling for row in rows]
        self._repetition = _column([p.repetition_penalty for p in params])
        self._presence = _column([p.presence_penalty for p in params])
        self._frequency = _column([p.frequency_penalty for p in params])

    def __call__(self, logits: mx.array, last: mx.array) -> mx.array:
        """logits `[rows, vocabulary]` after the rows' last tokens `[rows]`."""
        self._take_in(last)
        return self._apply(logits, self._counts)

    def ahead(self, logits: mx.array, inputs: mx.array) -> mx.array:
        """logits `[rows, width, vocabulary]` after each of the inputs `[rows, width]`. Only the first of a row is counted for
        good, the others where they and what follows them are looked at."""
        self._take_in(inputs[:, 0])
        width = inputs.shape[1]
        counts = mx.repeat(self._counts[:, None], width, axis=1)
        for at in range(1, width):
            row, position = self._index[:, None], mx.arange(at, width)[None]
            counts = counts.at[row, position, inputs[:, at : at + 1]].add(1.0)
        return self._apply(logits, counts)

    def count(self, tokens: Rows[Rows[int]]) -> None:
        """These tokens of each row came, and another behind them."""
        pairs = [(row, token) for row, some in enumerate(tokens) for token in some]
        if pairs:
            rows, ids = (mx.array(column) for column in zip(*pairs, strict=True))
            self._counts = self._counts.at[rows, ids].add(1.0)

    def _take_in(self, last: mx.array) -> None:
        is_output = mx.array([1.0 if row.launched else 0.0 for row in self._rows])
        self._counts = self._counts.at[self._index, last].add(is_output)

    def _apply(self, logits: mx.array, counts: mx.array) -> mx.array:
        prompt, repetition, presence, frequency = self._prompt, self._repetition, self._presence, self._frequency
        if logits.ndim == 3:
            prompt, repetition, presence, frequency = (f[:, None] for f in (prompt, repetition, presence, frequency))
        produced = counts > 0
        seen = prompt | produced
        logits = mx.where(seen, mx.where(logits > 0, logits / repetition, logits * repetition), logits)
        return logits - presence * produced - frequency * counts


def _bias(params: Rows[RowSampling], vocab_size: int) -> mx.array | None:
    if not any(p.logit_bias for p in params):
        return None
    bias = np.zeros((len(params), vocab_size), dtype=np.float32)
    for i, p in enumerate(params):
        for token_id, value in p.logit_bias.items():
            bias[i, token_id] = value
    return mx.array(bias)


def _column(values: Rows[float]) -> mx.array:
    return mx.array([[value] for value in values], dtype=mx.float32)
