"""Rows that decode together, and which rows should.

A lone row keeps the cache that its prefill filled: nothing is copied. When a second one comes, both move into slots.
Rows of very different length stay in groups of their own: a padded batch reads the longest row's length for every row,
and once that padding is more bytes than the weights, a second pass over the weights is cheaper."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from mlx_server_nano.worker import slots
from mlx_server_nano.worker.admission import Admission
from mlx_server_nano.worker.compiled import CompiledStep, plain_step
from mlx_server_nano.worker.drafts import Drafts, Verifying
from mlx_server_nano.worker.grammar import RowGrammar
from mlx_server_nano.worker.prefix import Entry
from mlx_server_nano.worker.ranks import ALONE, Ranks
from mlx_server_nano.worker.reuse import Reuse
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
    """One forward pass a step. `sequences[i]` is row i; a finished one stays until the next
    `join` or `close_gaps`, which come between steps."""

    def __init__(
        self,
        model: Callable[..., mx.array],
        row: Row,
        vocab_size: int,
        verifies: Verifying = Verifying.NOBODY,
        compiled: CompiledStep | None = None,
        *,
        ranks: Ranks = ALONE,
    ) -> None:
        """compiled: takes the steps that it can."""
        self._model = model
        self._ranks = ranks
        self._compiled = compiled
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

    def padding(self, length: int) -> int:
        """Key positions that would be read in vain, a step, if a row of this length joined."""
        lengths = [len(sequence) for sequence in self.sequences if not sequence.done]
        return max([length, *lengths]) * (len(lengths) + 1) - sum(lengths) - length

    def extract(self, index: int, length: int) -> Caches:
        """A row's first `length` tokens as caches of its own; those of a lone row are handed over."""
        if self._slotted:
            return [slots.extract(mine, index, length) for mine in self.caches]
        for mine in self.caches:
            if slots.cuttable(mine):
                slots.cut(mine, length)
        return self.caches

    @property
    def open(self) -> bool:
        """Whether rows can join: a cache without a token has no shape yet."""
        return self._slotted or len(self.sequences[0]) > 0

    @property
    def lone(self) -> Row | None:
        """The row that is alone in its own caches, if it can move."""
        return None if self._slotted or not self.open else Row(self.sequences[0], self.caches, self.tokens, self.lease)

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

    def forward(self, drafts: Drafts | None = None) -> mx.array:
        """Run the model on every row's last token: logits `[rows, vocabulary]`, lazy. With drafts, on those as well: logits
        `[rows, width, vocabulary]`; all tokens must have been read, and `keep_read` must come before the next step."""
        lengths = [len(sequence) for sequence in self.sequences]
        if drafts is not None:
            self._inputs = mx.array(drafts.inputs([s.last for s in self.sequences]), dtype=mx.uint32)
            if not self._slotted:
                self._before = [mine if slots.cuttable(mine) else slots.fork(mine) for mine in self.caches]
            return plain_step(self._model, self._inputs, self.caches, lengths)
        self._inputs = self.tokens[:, None]
        logits = self._compiled(self.tokens, self.caches, lengths) if self._compiled is not None else None
        return plain_step(self._model, self._inputs, self.caches, lengths)[:, -1] if logits is None else logits

    def sample(self, logits: mx.array, allowed: mx.array | None = None) -> mx.array:
        """The rows' next tokens, lazy; `forward` takes them in next. logits and allowed: see `Sampler`. Gives `[rows]`, or
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

    def growth(self, row: int = 0) -> int:
        """Bytes that the next step adds; with a row of so many tokens: that its joining adds."""
        lengths = [len(sequence) for sequence in self.sequences if sequence.wants_step]
        count, longest = (len(lengths) + 1, max(row, *lengths)) if row else (len(lengths), max(lengths) + 1)
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


class Batch:
    """All groups. `join` decides where a row decodes."""

    def __init__(
        self,
        model: Callable[..., mx.array],
        reuse: Reuse,
        admission: Admission,
        *,
        vocab_size: int,
        batchable: bool,
        verifies: Verifying,
        padding_limit: int,
        compiled: CompiledStep | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """padding_limit: key positions of padding that a group may have, those that take as many
        bytes as the weights."""
        self._model = model
        self._compiled = compiled
        self._vocab_size = vocab_size
        self._reuse = reuse
        self._admission = admission
        self._batchable = batchable
        self._verifies = verifies
        self._padding_limit = padding_limit
        self._ranks = ranks
        self._promised = 0
        self.groups: list[Group] = []

    @property
    def rows(self) -> int:
        return sum(1 for group in self.groups for sequence in group.sequences if sequence.wants_step)

    @property
    def growth(self) -> int:
        """Bytes that the next step adds."""
        return sum(group.growth() for group in self.groups)

    @property
    def nbytes(self) -> int:
        """Of all groups' caches."""
        caches = (cache for group in self.groups for cache in group.caches)
        return sum(array.nbytes for cache in caches for array in slots.arrays(cache))

    def settle(self, joining: list[Row], *, tight: bool = False) -> None:
        """Drop finished rows and place the new ones. Called between steps, before the next is launched. tight: memory is
        short, and what is given up shall be free now."""
        self._promised = 0
        for group in self.groups:
            for index, sequence in enumerate(group.sequences):
                if not sequence.wants_step:
                    self._leave(sequence, group.lease, functools.partial(group.extract, index))
        self.groups = [group for group in self.groups if group.live]
        if not tight:
            self._merge()
        for row in joining:
            if not row.sequence.wants_step:
                self._leave(row.sequence, row.lease, functools.partial(Group(self._model, row, 0).extract, 0))
            elif not self._join(row, self.groups):
                self.groups.append(
                    Group(self._model, row, self._vocab_size, self._verifies, self._compiled, ranks=self._ranks)
                )
        for group in self.groups:
            group.close_gaps(tight=tight)
        if tight:
            mx.eval([slots.arrays(mine) for group in self.groups for mine in group.caches])

    def _merge(self) -> None:
        """Lone rows move in with others as soon as they can: one whose prompt was a single token had no cache to join
        with, or a long row has left since."""
        for group in list(self.groups) if len(self.groups) > 1 else ():
            others = [other for other in self.groups if other is not group]
            if group.lone is not None and self._join(group.lone, others):
                self.groups = others

    def _join(self, row: Row, groups: list[Group]) -> bool:
        """Put a row into the group where it wastes least, if there is one for it."""
        length = len(row.sequence)
        if not self._batchable or length == 0:
            return False
        fits = [group for group in groups if group.open and group.padding(length) <= self._padding_limit]
        if not fits:
            return False
        best = min(fits, key=lambda group: group.padding(length))
        growth = best.growth(length)
        if self._admission.short(self._promised + growth) > 0:
            return False  # alone it needs no copy
        self._promised += growth
        for lease in best.join(row):
            self._reuse.copied(lease)
        return True

    def _leave(self, sequence: Sequence, lease: Entry | None, extract: Callable[[int], Caches]) -> None:
        """Keep a row's caches for later requests, as far as the host knows the tokens in them."""
        held = len(sequence)
        ids = (sequence.prompt + sequence.output)[:held]
        known = len(ids) == held or self._reuse.cuttable
        copied = self._admission.for_more(0, held) if lease is None else 0
        room = functools.partial(self._admission.short, self._promised + copied)
        if known and not sequence.paused and self._reuse.make_room(room):
            self._promised += copied
            self._reuse.finish(lease, ids, lambda: extract(len(ids)))
        else:
            self._reuse.forget(lease)

    def drop(self, group: Group) -> None:
        """A group whose caches are no good any more. Its rows may have finished and left already."""
        self.groups = [other for other in self.groups if other is not group]
        self._reuse.forget(group.lease)
