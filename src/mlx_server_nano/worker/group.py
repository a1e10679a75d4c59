"""Rows that keep their KV caches together.

A lone row keeps the cache that its prefill filled: nothing is copied. When a second one comes, both move into slots."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Rows
from typing import Any

import mlx.core as mx

from mlx_server_nano.worker import joint, slots
from mlx_server_nano.worker.drafts import Drafts, Verifying
from mlx_server_nano.worker.grammar import RowGrammar
from mlx_server_nano.worker.joint import Part
from mlx_server_nano.worker.prefix import Entry
from mlx_server_nano.worker.ranks import ALONE, Ranks
from mlx_server_nano.worker.row_cost import growth
from mlx_server_nano.worker.sampler import Sampler
from mlx_server_nano.worker.sequence import Sequence

Caches = list[Any]


class Row:
    """A sequence with its own caches (one a layer, batch of one) and its last token, `[1]`. `lease`: the prefix cache's hold
    on these caches, if it has one."""

    def __init__(self, sequence: Sequence, caches: Caches, token: mx.array, lease: Entry | None = None) -> None:
        self.sequence = sequence
        self.caches = caches
        self.token = token
        self.lease = lease


class Group:
    """`sequences[i]` is row i; a finished one stays until the next `join` or `close_gaps`, which come between steps."""

    def __init__(
        self,
        model: Callable[..., mx.array],
        row: Row,
        vocab_size: int,
        verifies: Verifying = Verifying.NOBODY,
        *,
        ranks: Ranks = ALONE,
    ) -> None:
        self._model = model
        self._ranks = ranks
        self._verifies = verifies
        self._vocab_size = vocab_size
        self.sequences: list[Sequence] = [row.sequence]
        self.caches: Caches = row.caches
        self.tokens: mx.array = row.token
        self._inputs: mx.array = row.token[:, None]
        self.lease = row.lease
        self._slotted = False
        self._sampler: Sampler | None = None
        # A lone row's caches as they were before drafts; those that can be cut are the same ones.
        self._before: Caches = []

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def live(self) -> bool:
        return any(sequence.wants_step for sequence in self.sequences)

    @property
    def verifies(self) -> bool:
        """Whether drafts can be verified."""
        return self._verifies is Verifying.ALL or (self._verifies is Verifying.ALONE and not self._slotted)

    @property
    def lengths(self) -> list[int]:
        """Tokens of the rows that go on."""
        return [len(sequence) for sequence in self.sequences if sequence.wants_step]

    @property
    def reach(self) -> int:
        """Key positions that a step reads, with padding."""
        return len(self) * max(len(sequence) for sequence in self.sequences)

    @property
    def part(self) -> Part:
        """All rows, for a forward pass."""
        return Part(self.caches, [len(sequence) for sequence in self.sequences])

    def extract(self, index: int, length: int) -> Caches:
        """A row's first `length` tokens as caches of its own; those of a lone row are handed over."""
        if self._slotted:
            return [slots.extract(mine, index, length) for mine in self.caches]
        for mine in self.caches:
            joint.detach(mine)
            if slots.cuttable(mine):
                slots.cut(mine, length)
        return self.caches

    @property
    def open(self) -> bool:
        """Whether rows can join: a cache without a token has no shape yet."""
        return self._slotted or len(self.sequences[0]) > 0

    def take_out(self) -> list[Row]:
        """The rows that go on, with caches of their own, to join another group; this one is not used any more."""
        if not self._slotted:
            return [Row(self.sequences[0], self.caches, self.tokens, self.lease)]
        return [
            Row(sequence, self.extract(i, len(sequence)), self.tokens[i : i + 1])
            for i, sequence in enumerate(self.sequences)
            if sequence.wants_step
        ]

    def join(self, row: Row) -> list[Entry | None]:
        """A newcomer takes the slot of a finished row, or one more. Gives the leases on caches that are no longer in use."""
        freed = [row.lease]
        if not self._slotted:
            self._into_slots()
            freed.append(self.lease)
            self.lease = None
        gap = next((i for i, sequence in enumerate(self.sequences) if not sequence.wants_step), len(self.sequences))
        for mine, own in zip(self.caches, row.caches, strict=True):
            slots.put(mine, gap, own)
        if gap == len(self.sequences):
            self.sequences.append(row.sequence)
            self.tokens = mx.concatenate([self.tokens, row.token])
        else:
            self.sequences[gap] = row.sequence
            self.tokens = _replaced(self.tokens, gap, row.token)
        self._sampler = None
        return freed

    @property
    def grammars(self) -> list[RowGrammar | None]:
        """Each row's grammar; None where it has none or needs none any more."""
        return [None if sequence.done else sequence.grammar for sequence in self.sequences]

    @property
    def forced(self) -> list[int | None]:
        """The token that a row must take next; None where it is free."""
        return [None if s.done or s.thinking is None else s.thinking.forced for s in self.sequences]

    @property
    def held(self) -> bool:
        """Whether what may come next in some row depends on its last token."""
        return any(s.grammar is not None or (s.thinking is not None and s.thinking.active) for s in self.sequences)

    def begin(self, drafts: Drafts | None = None) -> mx.array:
        """What a forward pass takes in, `[rows, width]`: every row's last token, and its draft, if there are any; then all tokens
        must have been read, and `keep_read` must come before the next pass."""
        if drafts is None:
            self._inputs = self.tokens[:, None]
        else:
            self._inputs = mx.array(drafts.inputs([s.last for s in self.sequences]), dtype=mx.uint32)
            if not self._slotted:
                self._before = [mine if slots.cuttable(mine) else slots.fork(mine) for mine in self.caches]
        return self._inputs

    def sample(self, logits: mx.array, allowed: mx.array | None = None) -> mx.array:
        """The rows' next tokens, lazy; the next pass takes them in. logits and allowed: see `Sampler`. Gives `[rows]`, or
        `[rows, width]` where drafts are verified."""
        if self._sampler is None:
            self._sampler = Sampler(self.sequences, self._vocab_size)
        if logits.ndim == 3:
            tokens = self._sampler.verify(logits, self._inputs, allowed)
        else:
            tokens = self.tokens = self._ranks.share(self._sampler(logits, self.tokens, allowed))
        for sequence in self.sequences:
            sequence.launched += 1
        return tokens

    def keep_read(self, before: list[int]) -> None:
        """Cut the caches back to what has been read of a step that verified drafts. before: the length of each row's output
        when it was launched."""
        for sequence in self.sequences:
            sequence.keep_read()
        self.tokens = mx.array([sequence.last for sequence in self.sequences], dtype=mx.uint32)
        if self._sampler is not None:
            self._sampler.keep([s.output[start:-1] for s, start in zip(self.sequences, before, strict=True)])
        if not self._slotted:
            self._take_back(len(self.sequences[0].prompt) + before[0] - 1)

    def _take_back(self, start: int) -> None:
        """Let a lone row's caches, which drafts were written to from `start` on, hold what the row has said: where they can't
        be cut, by computing that once more on the caches as they were."""
        length = len(self.sequences[0])
        kept, self._before = self._before, []
        if length == start + self._inputs.shape[1]:
            return
        again = not all(slots.cuttable(mine) for mine in self.caches)
        self.caches = kept
        for mine in self.caches:
            if slots.cuttable(mine):
                slots.cut(mine, start if again else length)
        if again and length > start:
            self._model(self._inputs[:, : length - start], cache=self.caches)

    def _into_slots(self) -> None:
        own, self.caches = self.caches, [slots.slots_for(cache) for cache in self.caches]
        for mine, theirs in zip(self.caches, own, strict=True):
            slots.put(mine, 0, theirs)
        self._slotted = True

    def growth(self, joining: Rows[int] = ()) -> int:
        """Bytes that the next step adds; with the lengths of other rows: that their joining adds."""
        lengths = [*self.lengths, *joining]
        count, longest = len(lengths), max(lengths) + (0 if joining else 1)
        return sum(growth(mine, count, longest) for mine in self.caches)

    def close_gaps(self, *, tight: bool = False) -> None:
        """Let finished rows go: the last rows move into their slots. tight: keep no slots and little room in reserve."""
        rows = self.sequences
        before = len(rows)
        _drop_finished_tail(rows)
        gap = 0
        while gap < len(rows):
            if not rows[gap].wants_step:
                last = len(rows) - 1
                for mine in self.caches:
                    slots.move(mine, last, gap)
                self.tokens = _replaced(self.tokens, gap, self.tokens[last : last + 1])
                rows[gap] = rows.pop()
                _drop_finished_tail(rows)
            gap += 1
        if len(rows) != before:
            self.tokens = self.tokens[: len(rows)]
            self._sampler = None
        if self._slotted and (tight or len(rows) != before):
            longest = max(len(sequence) for sequence in rows)
            for mine in self.caches:
                slots.shrink(mine, len(rows), longest, tight=tight)


def _drop_finished_tail(rows: list[Sequence]) -> None:
    while rows and not rows[-1].wants_step:
        rows.pop()


def _replaced(tokens: mx.array, at: int, token: mx.array) -> mx.array:
    """A new array: the old one may still be waiting to be read."""
    return mx.concatenate([tokens[:at], token, tokens[at + 1 :]])
