"""Which rows keep their caches together, and which decode in one forward pass.

Rows in one group are padded to its longest in what they hold and read, so only rows of like length share one. Groups share a
pass over the weights where the model lets them (`joint`), so that another group costs no more than its attention. Where a
model does not, another group is another pass, and padding goes on until it is more bytes than the weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final

import mlx.core as mx

from mlx_server_nano.worker import slots
from mlx_server_nano.worker.admission import Admission
from mlx_server_nano.worker.compiled import CompiledStep, plain_step
from mlx_server_nano.worker.drafts import Drafts, Verifying
from mlx_server_nano.worker.group import Caches, Group, Row
from mlx_server_nano.worker.joint import ranges
from mlx_server_nano.worker.pace import Pace
from mlx_server_nano.worker.prefix import Entry
from mlx_server_nano.worker.ranks import ALONE, Ranks
from mlx_server_nano.worker.reuse import Reuse
from mlx_server_nano.worker.sequence import Sequence

# Key positions of padding that are never worth another part.
_FREE: Final = 1024


def _padding(lengths: list[int]) -> int:
    """Key positions that are held and read in vain where rows of these lengths lie together."""
    return max(lengths) * len(lengths) - sum(lengths)


class Batch:
    """All groups. `settle` decides where a row decodes, `passes` which groups do so in one forward pass."""

    def __init__(
        self,
        model: Callable[..., mx.array],
        reuse: Reuse,
        admission: Admission,
        *,
        vocab_size: int,
        batchable: bool,
        verifies: Verifying,
        joins: bool,
        padding_limit: int,
        compiled: CompiledStep | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """joins: see `LoadedModel`. padding_limit: key positions of padding that a group may have. compiled: takes the passes
        that it can."""
        self._model = model
        self._compiled = compiled
        self._vocab_size = vocab_size
        self._reuse = reuse
        self._admission = admission
        self._batchable = batchable
        self._verifies = verifies
        self._joins = joins
        self._padding_limit = padding_limit
        self._ranks = ranks
        self._promised = 0
        self.pace = None if ranks.several else Pace()  # what it measures differs between machines
        self.groups: list[Group] = []

    @property
    def rows(self) -> int:
        return sum(1 for group in self.groups for sequence in group.sequences if sequence.wants_step)

    @property
    def settled(self) -> bool:
        """Whether there are rows, and every one goes on."""
        return bool(self.groups) and all(row.wants_step for group in self.groups for row in group.sequences)

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
        if len(self.groups) == 1 and self.settled and not joining and not tight:
            return
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
                self.groups.append(Group(self._model, row, self._vocab_size, self._verifies, ranks=self._ranks))
        for group in self.groups:
            group.close_gaps(tight=tight)
        if tight:
            mx.eval([slots.arrays(mine) for group in self.groups for mine in group.caches])

    @property
    def due(self) -> list[Group]:
        """The groups that take the next step."""
        groups = list(self.groups)
        return groups if self.pace is None else self.pace.due(groups)

    def passes(self, groups: list[Group]) -> list[list[Group]]:
        """These groups by the forward pass that they share. A cache without a token has no shape yet, and stays alone."""
        together = [group for group in groups if group.open] if self._joins else []
        alone = [[group] for group in groups if group not in together]
        return [*alone, together] if together else alone

    def forward(self, groups: list[Group], drafts: Drafts | None = None) -> list[mx.array]:
        """One pass through the model: each group's logits `[rows, vocabulary]`, lazy, after its rows' last tokens. With drafts,
        which are of one group: `[rows, width, vocabulary]`."""
        inputs = mx.concatenate([group.begin(drafts) for group in groups])
        parts = [group.part for group in groups]
        if drafts is not None:
            return [plain_step(self._model, inputs, parts)]
        logits = self._compiled(inputs, parts) if self._compiled is not None else None
        if logits is None:
            logits = plain_step(self._model, inputs, parts)[:, -1]
        return [logits[rows] for rows in ranges([len(group) for group in groups])] if len(groups) > 1 else [logits]

    def _merge(self) -> None:
        """Groups move in with others as soon as they can: a row whose prompt was a single token had no cache to join with, a long
        row has left since, or what differed by much does so no more."""
        for group in sorted(self.groups, key=len) if self._batchable else ():
            others = [other for other in self.groups if other is not group]
            if group.open and (target := self._target(group.lengths, others)) is not None:
                for row in group.take_out():
                    self._move(row, target)
                self.groups = others

    def _join(self, row: Row, groups: list[Group]) -> bool:
        """Put a row into the group where it wastes least, if there is one for it."""
        length = len(row.sequence)
        target = self._target([length], groups) if self._batchable and length > 0 else None
        if target is not None:
            self._move(row, target)
        return target is not None

    def _target(self, lengths: list[int], groups: list[Group]) -> Group | None:
        """The group that rows of these lengths should join, if there is memory for it: alone they need no copy."""
        fits = [
            (padding, group)
            for group in groups
            if group.open
            and (padding := _padding(together := [*group.lengths, *lengths])) <= self._most_padding(together)
        ]
        if not fits:
            return None
        _, best = min(fits, key=lambda fit: fit[0])
        growth = best.growth(lengths)
        if self._admission.short(self._promised + growth) > 0:
            return None
        self._promised += growth
        return best

    def _most_padding(self, lengths: list[int]) -> int:
        if not self._joins:
            return self._padding_limit
        return min(self._padding_limit, max(_FREE, sum(lengths) // 2))

    def _move(self, row: Row, group: Group) -> None:
        for lease in group.join(row):
            self._reuse.copied(lease)

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
