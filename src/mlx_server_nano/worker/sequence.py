"""A sequence: one choice of a request on its way through prefill and decode. Pure Python, the engine's one mutable
row."""

from __future__ import annotations

import os
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlx_server_nano.protocol import Delta
from mlx_server_nano.types import FinishReason, TokenLogprob
from mlx_server_nano.worker.detokenizer import Detokenizer
from mlx_server_nano.worker.ngram import Lookup, PromptIndex
from mlx_server_nano.worker.stops import StopMatcher

if TYPE_CHECKING:
    from mlx_server_nano.worker.grammar import RowGrammar
    from mlx_server_nano.worker.thinking import ThinkingLimit


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSampling:
    """A row's sampling with every default filled in. `seed` is None where the request gave none.

    top_k 0, top_p 1, min_p 0, repetition_penalty 1, presence_penalty 0 and frequency_penalty 0 are off; temperature 0
    is greedy."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: dict[int, float]
    seed: int | None

    @property
    def penalized(self) -> bool:
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0


class Draws:
    """A row's uniform numbers, one for each token: from a counter-based generator (Philox), so that a seed gives the
    same numbers in any batch. The choices of one request draw differently."""

    def __init__(self, seed: int | None, choice: int) -> None:
        low = int.from_bytes(os.urandom(8), "big") if seed is None else seed % (1 << 64)
        self._generator = np.random.Generator(np.random.Philox(key=low | choice << 64))
        self._drawn = array("d")

    def at(self, index: int) -> float:
        """The number for the answer's token at `index`, in [0, 1), also in single precision."""
        while len(self._drawn) <= index:
            self._drawn.append(min(float(self._generator.random()), 1.0 - 2.0**-24))
        return self._drawn[index]


@dataclass(frozen=True, slots=True)
class _HeldLogprob:
    """A token's log-probability that waits until the token's text, characters `start` to `end`, is out."""

    start: int
    end: int
    value: TokenLogprob


class Sequence:
    """One row. `launched` counts the tokens that forward passes will have produced, `output` those that the host has
    read.

    The engine launches a step before it reads the last one, so `launched` runs ahead of `len(output)` by at most one. A
    step that verifies drafts counts as one token until it is read: then as many as were accepted.
    The prompt's last token is the first one that a row decodes. `paused`: it gives its caches up until `resume`."""

    def __init__(
        self,
        *,
        request_id: int,
        choice: int,
        prompt: list[int],
        sampling: RowSampling,
        max_tokens: int,
        eos_ids: frozenset[int],
        detokenizer: Detokenizer,
        stops: tuple[str, ...],
        logprobs: int | None,
        grammar: RowGrammar | None = None,
        thinking: ThinkingLimit | None = None,
        index: PromptIndex | None = None,
    ) -> None:
        """index: of the prompt, if the answer is to be looked up in it."""
        self.request_id = request_id
        self.choice = choice
        self.prompt = prompt
        self.sampling = sampling
        self.max_tokens = max_tokens
        self.logprobs = logprobs
        self.grammar = grammar
        self.thinking = thinking
        self.launched = 0
        self.output: list[int] = []
        self.lookup = Lookup(index, self.output) if index is not None else None
        self.finish: FinishReason | None = None
        self.cancelled = False
        self.paused = False
        self._retried_at: int | None = None
        self._draws = Draws(sampling.seed, choice)
        self._eos_ids = eos_ids
        self._detokenizer = detokenizer
        self._stops = StopMatcher(stops)
        self._decoded = 0
        self._sent = 0
        self._held_logprobs: list[_HeldLogprob] = []
        self._uncounted = 0

    @property
    def done(self) -> bool:
        """Nothing is to be read for this row any more."""
        return self.cancelled or self.finish is not None

    @property
    def wants_step(self) -> bool:
        """Whether another forward pass can still add a token."""
        return not self.done and not self.paused and self.launched < self.max_tokens

    def __len__(self) -> int:
        """Tokens in the KV cache once every launched step has run: all but the last one known or in flight."""
        return len(self.prompt) + self.launched - 1

    @property
    def last(self) -> int:
        """The last token that the host knows."""
        return self.output[-1] if self.output else self.prompt[-1]

    def room_within(self, context: int) -> int:
        """How many more tokens fit into a context of this length."""
        return max(0, context - len(self.prompt) - len(self.output))

    def draw(self, ahead: int = 0) -> float:
        """The uniform number for this row's next token to be launched, or for one that many further on."""
        return self._draws.at(self.launched + ahead)

    def keep_read(self) -> None:
        """Of the tokens that were verified together, only those that were read were the row's."""
        self.launched = len(self.output)

    @property
    def order(self) -> tuple[int, int]:
        """Requests are numbered as they come."""
        return self.request_id, self.choice

    def resume(self) -> None:
        """The row goes on after the tokens that the host has read, in caches that hold all but the last of them."""
        self.paused = False
        self.launched = len(self.output)

    @property
    def may_retry(self) -> bool:
        """Whether the row has got on since a failed step of it was last retried."""
        return self._retried_at != len(self.output)

    def retry(self) -> None:
        """A step failed and is to be tried again, from the tokens that the host has read."""
        self._retried_at = len(self.output)
        self.resume()

    def accept(self, token_id: int, logprob: TokenLogprob | None = None) -> Delta | None:
        """Take a sampled token. Gives a delta if there is anything to send; the last one has a finish reason."""
        self.output.append(token_id)
        self._uncounted += 1
        if token_id in self._eos_ids:
            return self._end(FinishReason.STOP)
        if self.grammar is not None:
            self.grammar.advance(token_id)
        text = self._detokenizer.add(token_id)
        if self.thinking is not None:
            self.thinking.advance(text, whole=not self._detokenizer.pending)
        self._note(text, logprob)
        released, stop = self._stops.feed(text)
        self._sent += len(released)
        if stop is not None:
            return self._end(FinishReason.STOP, released, stop)
        if len(self.output) >= self.max_tokens:
            return self._end(FinishReason.LENGTH, released)
        logprobs = self._release_logprobs()
        if not released and not logprobs:
            return None
        return self._delta(released, logprobs)

    def _note(self, text: str, logprob: TokenLogprob | None) -> None:
        start = self._decoded
        self._decoded += len(text)
        if logprob is not None:
            self._held_logprobs.append(_HeldLogprob(start, self._decoded, logprob))

    def _release_logprobs(self) -> tuple[TokenLogprob, ...]:
        if not self._held_logprobs or self._detokenizer.pending:
            return ()
        ready = 0
        while ready < len(self._held_logprobs) and self._held_logprobs[ready].end <= self._sent:
            ready += 1
        released = tuple(held.value for held in self._held_logprobs[:ready])
        del self._held_logprobs[:ready]
        return released

    def _end(self, finish: FinishReason, text: str = "", stop: str | None = None) -> Delta:
        """Everything held back goes out, unless a stop string cut it off."""
        if stop is None:
            tail = self._detokenizer.flush()
            released, late_stop = self._stops.feed(tail)
            self._sent += len(released)
            text += released
            if late_stop is None:
                text += self._stops.flush()
            else:
                finish, stop = FinishReason.STOP, late_stop
        self.finish = finish
        if stop is None:
            logprobs = tuple(held.value for held in self._held_logprobs)
        else:
            logprobs = tuple(held.value for held in self._held_logprobs if held.start < self._sent)
        self._held_logprobs.clear()
        return self._delta(text, logprobs, stop)

    def _delta(self, text: str, logprobs: tuple[TokenLogprob, ...], stop: str | None = None) -> Delta:
        tokens, self._uncounted = self._uncounted, 0
        return Delta(self.request_id, self.choice, text, tokens, logprobs, self.finish, stop)


def joined(deltas: list[Delta]) -> Delta:
    """What one step has to say of a choice, as one delta."""
    if len(deltas) == 1:
        return deltas[0]
    last = deltas[-1]
    return Delta(
        last.request_id,
        last.choice,
        "".join(delta.text for delta in deltas),
        sum(delta.tokens for delta in deltas),
        tuple(logprob for delta in deltas for logprob in delta.logprobs),
        last.finish,
        last.stop,
    )
