"""Log-probabilities of one step, of the rows that ask."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from mlx_server_nano.worker.logprobs import LogprobReader
from mlx_server_nano.worker.sequence import Sequence
from tests.worker.test_sampler import Row


class Letters:
    """Token i is the i-th letter."""

    def bytes_of(self, token_id: int) -> bytes:
        return bytes([ord("a") + token_id])


def rows(*wanted: int | None) -> list[Sequence]:
    made: list[Sequence] = []
    for count in wanted:
        row = Row()
        row.logprobs = count
        made.append(row)
    return made


def read(sequences: list[Sequence], logits: np.ndarray, tokens: list[int]) -> dict[int, tuple]:
    reader = LogprobReader.of(sequences, mx.array(logits), mx.array(tokens, dtype=mx.uint32))
    assert reader is not None
    mx.eval(reader.arrays)
    found = reader.read(Letters())  # type: ignore[arg-type]
    return {i: (v.token, v.logprob, [(a.token, a.logprob) for a in v.top]) for i, v in found.items()}


def test_nothing_is_computed_if_nobody_asks():
    assert LogprobReader.of(rows(None, None), mx.zeros((2, 5)), mx.array([0, 1])) is None


def test_each_row_gets_what_it_asked_for():
    logits = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32) * 3
    expected = logits.astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum(axis=-1, keepdims=True))
    tokens = [5, 0, 3, 2]
    found = read(rows(2, None, 0, 20), logits, tokens)
    assert sorted(found) == [0, 2, 3], "keys are rows of the step"
    for row, count in ((0, 2), (2, 0), (3, 6)):
        token, logprob, top = found[row]
        assert token == Letters().bytes_of(tokens[row])
        np.testing.assert_allclose(logprob, expected[row, tokens[row]], atol=1e-5)
        order = np.argsort(-expected[row])[:count]
        assert [name for name, _ in top] == [Letters().bytes_of(int(i)) for i in order]
        np.testing.assert_allclose([value for _, value in top], expected[row, order], atol=1e-5)


def test_large_and_half_precision_logits():
    logits = mx.array([[1000.0, 999.0, -1000.0]]).astype(mx.bfloat16)
    reader = LogprobReader.of(rows(3), logits, mx.array([0]))
    assert reader is not None
    (value,) = reader.read(Letters()).values()  # type: ignore[arg-type]
    exact = np.array(logits.astype(mx.float32))[0].astype(np.float64)
    exact -= exact.max() + np.log(np.exp(exact - exact.max()).sum())
    np.testing.assert_allclose([a.logprob for a in value.top], exact, atol=1e-4)
