"""Grammars: which tokens may come next in a row. llguidance does the parsing; this keeps it off the engine's path.

Compiling happens on the preparer's thread and is cached; a mask is computed while the forward pass runs.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import numpy as np
from llguidance import LLExecutor, LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from llguidance.numpy import (
    allocate_token_bitmask,
    fill_next_token_bitmask_par,
    fill_next_token_bitmask_par_with_draft_tokens,
)

from mlx_server_nano.errors import InvalidRequestError, UnsupportedParameterError
from mlx_server_nano.types import Constraint
from mlx_server_nano.worker.drafts import Drafts
from mlx_server_nano.worker.vocabulary import Vocabulary

# llguidance takes a second or so for 50 KiB of distinct property names, as long as it likes for the whole.
MAX_GRAMMAR_BYTES = 256 << 10
_CACHED = 64
# Behind its reason llguidance quotes the source.
_SOURCE = "\n   1 |"

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
            raise GrammarError(
                (self.matcher.get_error().partition("\n")[0]) or f"token {token_id} does not fit the grammar"
            )

    def allowed(self, draft: list[int]) -> list[int]:
        """As much of a draft as the grammar allows; the state stays."""
        return draft[: self.matcher.validate_tokens(draft)] if draft else draft


class _Tokens:
    """What llguidance asks of a tokenizer. It reads a `tokenizer.json` too, but that takes several times as long."""

    def __init__(self, tokenizer: Any, vocabulary: Vocabulary, *, vocab_size: int, eos_ids: frozenset[int]) -> None:
        self.eos_token_id = min(eos_ids)
        self.bos_token_id = None
        self.special_token_ids = sorted(vocabulary.special.values())
        self.tokens = [vocabulary.bytes_of(token_id) for token_id in range(vocab_size)]
        self._tokenizer = tokenizer

    def __call__(self, text: str | bytes) -> list[int]:
        if isinstance(text, bytes):
            raise TypeError("takes str")
        return list(self._tokenizer.encode(text, add_special_tokens=False))


class GrammarCompiler:
    """Compiles and caches grammars for one tokenizer. `compile` is for one thread at a time.

    llguidance's index of a vocabulary of 150,000 takes a second or so and holds the interpreter lock: it is made on a thread
    while the weights are read from disk, not when the first grammar comes and streams run.
    """

    def __init__(self, tokenizer: Any, vocabulary: Vocabulary, *, vocab_size: int, eos_ids: frozenset[int]) -> None:
        self.vocab_size = vocab_size
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._tokenizer: LLTokenizer | None = None
        self._thread = threading.Thread(
            target=self._index, args=(tokenizer, vocabulary, eos_ids), name="grammar", daemon=True
        )
        self._thread.start()

    def _index(self, tokenizer: Any, vocabulary: Vocabulary, eos_ids: frozenset[int]) -> None:
        if vocabulary.exact and eos_ids:
            tokens = _Tokens(tokenizer, vocabulary, vocab_size=self.vocab_size, eos_ids=eos_ids)
            self._tokenizer = LLTokenizer(TokenizerWrapper(tokens), eos_token=sorted(eos_ids))

    def compile(self, constraint: Constraint, prompt_tail: str) -> RowGrammar:
        """Raises InvalidRequestError for a grammar that does not compile, with llguidance's reason, or that is too large."""
        source = _chosen(constraint, prompt_tail)
        matcher = self._compiled.get(source)
        if matcher is None:
            matcher = self._compile(source, constraint.param)
            self._compiled[source] = matcher
            if len(self._compiled) > _CACHED:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(source)
        return RowGrammar(matcher.deep_copy())

    def _compile(self, source: str, param: str | None) -> LLMatcher:
        if len(source) > MAX_GRAMMAR_BYTES:
            raise InvalidRequestError(
                f"The grammar or schema is too large: {len(source)} bytes of at most {MAX_GRAMMAR_BYTES}.",
                param=param,
            )
        self._thread.join()
        if self._tokenizer is None:
            raise UnsupportedParameterError("This model's tokenizer does not work with grammars.", param=param)
        matcher = LLMatcher(self._tokenizer, source, log_level=0, limits=LLParserLimits(verbose_errors=False))
        if matcher.is_error():
            reason = matcher.get_error().partition("failed to compile JSON schema: ")[2] or matcher.get_error()
            raise InvalidRequestError(
                f"The grammar or schema is not supported: {reason.strip().partition(_SOURCE)[0]}", param=param
            )
        return matcher


def _chosen(constraint: Constraint, tail: str) -> str:
    inside = constraint.in_reasoning is not None and tail.rstrip().endswith(constraint.reasoning_open)
    return constraint.in_reasoning if inside and constraint.in_reasoning is not None else constraint.grammar


class Masks:
    """Computes the masks of a batch's constrained rows on all cores, without the interpreter lock."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._executor = LLExecutor()

    def fill(
        self, grammars: list[RowGrammar | None], forced: list[int | None], drafts: Drafts | None = None
    ) -> Bitmask:
        """Bits `[rows, width, vocabulary / 32]`, 1 where a token may come: all ones for rows without a grammar, one bit
        where a token is forced. Positions after the first are those after each drafted token; drafts must be such as the
        grammar allows."""
        width = drafts.width if drafts is not None else 1
        tokens = drafts.tokens if drafts is not None else [[]] * len(grammars)
        bits: Bitmask = allocate_token_bitmask(len(grammars) * width, self._vocab_size)
        ruled = [
            (grammar.matcher, i * width, draft)
            for i, (grammar, token, draft) in enumerate(zip(grammars, forced, tokens, strict=True))
            if grammar is not None and token is None
        ]
        if single := [(matcher, at) for matcher, at, draft in ruled if not draft]:
            fill_next_token_bitmask_par(self._executor, single, bits)
        if drafted := [(matcher, at, draft) for matcher, at, draft in ruled if draft]:
            fill_next_token_bitmask_par_with_draft_tokens(self._executor, drafted, bits)
        bits = bits.reshape(len(grammars), width, -1)
        for row, token in enumerate(forced):
            if token is not None:
                bits[row, 0] = 0
                bits[row, 0, token // 32] = np.int32(np.uint32(1 << token % 32).view(np.int32))
        return bits
