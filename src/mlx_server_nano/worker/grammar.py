"""Grammars: which tokens may come next in a row. llguidance does the parsing; this keeps it off the engine's path.

Compiling happens on the preparer's thread and is cached; a mask is computed while the forward pass runs.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
from llguidance import LLExecutor, LLMatcher, LLParserLimits, LLTokenizer
from llguidance.hf import from_tokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask_par

from mlx_server_nano.errors import InvalidRequestError, UnsupportedParameterError
from mlx_server_nano.types import Constraint

MAX_GRAMMAR_BYTES = 512 << 10
_CACHED = 64

Bitmask = np.ndarray[Any, np.dtype[np.int32]]


class GrammarError(Exception):
    """The grammar can't go on: the parser hit a limit, or a token came that it does not allow."""


class RowGrammar:
    """The grammar's state for one row."""

    def __init__(self, matcher: LLMatcher) -> None:
        self.matcher = matcher

    def fork(self) -> RowGrammar:
        """The same state for another choice."""
        return RowGrammar(self.matcher.deep_copy())

    def advance(self, token_id: int) -> None:
        """Take the token that was sampled. Raises GrammarError."""
        if not self.matcher.consume_token(token_id):
            raise GrammarError(self.matcher.get_error() or f"token {token_id} does not fit the grammar")


class GrammarCompiler:
    """Compiles and caches grammars for one tokenizer. For one thread at a time."""

    def __init__(self, tokenizer: Any, *, vocab_size: int, eos_ids: frozenset[int]) -> None:
        self._hf_tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos_ids = sorted(eos_ids)
        self._tokenizer: LLTokenizer | None = None
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()

    def compile(self, constraint: Constraint, prompt_tail: str) -> RowGrammar:
        """Raises InvalidRequestError for a grammar that does not compile, with llguidance's reason, or that is too large."""
        source = _chosen(constraint, prompt_tail)
        matcher = self._compiled.get(source)
        if matcher is None:
            matcher = self._compile(source)
            self._compiled[source] = matcher
            if len(self._compiled) > _CACHED:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(source)
        return RowGrammar(matcher.deep_copy())

    def _compile(self, source: str) -> LLMatcher:
        if len(source) > MAX_GRAMMAR_BYTES:
            raise InvalidRequestError(
                f"The grammar or schema is too large: {len(source)} bytes of at most {MAX_GRAMMAR_BYTES}."
            )
        if self._tokenizer is None:
            try:
                self._tokenizer = from_tokenizer(self._hf_tokenizer, n_vocab=self._vocab_size, eos_token=self._eos_ids)
            except ValueError as error:
                raise UnsupportedParameterError(f"This model's tokenizer takes no grammar: {error}") from error
        matcher = LLMatcher(self._tokenizer, source, log_level=0, limits=LLParserLimits(verbose_errors=False))
        if matcher.is_error():
            raise InvalidRequestError(f"The grammar or schema is not supported: {matcher.get_error()}")
        return matcher


def _chosen(constraint: Constraint, tail: str) -> str:
    if constraint.in_reasoning is None:
        return constraint.grammar
    opened = tail.rfind(constraint.reasoning_open)
    return constraint.in_reasoning if opened > tail.rfind(constraint.reasoning_close) else constraint.grammar


class Masks:
    """Computes the masks of a batch's constrained rows on all cores, without the interpreter lock."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._executor = LLExecutor()

    def fill(self, grammars: list[RowGrammar | None]) -> Bitmask:
        """Bits `[rows, vocabulary / 32]`, 1 where a token may come; all ones for rows without a grammar."""
        bits: Bitmask = allocate_token_bitmask(len(grammars), self._vocab_size)
        matchers = [(grammar.matcher, i) for i, grammar in enumerate(grammars) if grammar is not None]
        fill_next_token_bitmask_par(self._executor, matchers, bits)
        return bits
