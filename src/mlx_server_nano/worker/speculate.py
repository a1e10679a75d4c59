"""Speculation: tokens that are guessed, and then verified together in one forward pass.

A pass over a row's last token and k drafted ones gives what the model says after each of them. Every position's token is
drawn as it would be without drafts, by the row's own uniform number for that position; the drafts count only as long as
they are what was drawn. So the tokens are those of plain decoding, greedy or sampled, and a seed's text stays the same.

Drafting needs the last tokens on the host, so such a step can't be launched ahead. Whether that pays is worked out at each
step from how often guesses come true and from how long passes take, and only for few rows: for many, the device has
enough to do as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mlx_server_nano.worker.costs import Costs, Shape
from mlx_server_nano.worker.drafts import Drafts
from mlx_server_nano.worker.group import Group
from mlx_server_nano.worker.sequence import Sequence

MOST_ROWS: Final = 8
# Drafted tokens a row, a few sizes only: each shape of a pass may need kernels of its own.
_SIZES: Final = (2, 4, 8, 16)
_MOST_POSITIONS: Final = 72  # tokens of all rows in a pass
_MARGIN: Final = 1.05  # must be won at least, or overlapping is given up for nothing


@dataclass(frozen=True, slots=True)
class _Hope:
    """What a row could gain: at most `most` drafted tokens, each of which comes true at this rate if those before it
    do."""

    rate: float
    most: int

    def gain(self, drafted: int) -> float:
        """Tokens to be expected beyond the one that every step gives."""
        count = min(drafted, self.most)
        return count if self.rate >= 1 else self.rate * (1 - self.rate**count) / (1 - self.rate)


class Speculator:
    """Decides whether and how much to draft."""

    def __init__(self, *, enabled: bool, costs: Costs | None = None) -> None:
        self.enabled = enabled
        self.costs = costs or Costs()
        self._drafted = 0
        self._accepted = 0

    def reads_first(self, group: Group, rows: int) -> bool:
        """Whether the group's tokens are to be read before its next step is launched, as drafts are likely to pay.

        rows: of all groups."""
        return self._size(group, rows) > 0

    def drafts(self, group: Group, rows: int) -> Drafts | None:
        """Drafts for the group's next step. None: a plain step."""
        if any(sequence.launched != len(sequence.output) for sequence in group.sequences if sequence.wants_step):
            return None
        size = self._size(group, rows)
        if not size:
            return None
        tokens = [_draft(sequence, size) for sequence in group.sequences]
        return Drafts(tokens, size + 1) if any(tokens) else None

    def accepted(self, drafts: Drafts, row: int, drawn: list[int]) -> list[int]:
        """See `Drafts.accepted`; counted."""
        tokens = drafts.accepted(row, drawn)
        self._drafted += len(drafts.tokens[row])
        self._accepted += len(tokens) - 1
        return tokens

    def take_counts(self) -> tuple[int, int]:
        """Tokens that were drafted, and those of them that were accepted, since the last call."""
        counts = self._drafted, self._accepted
        self._drafted = self._accepted = 0
        return counts

    def _size(self, group: Group, rows: int) -> int:
        """How many tokens to draft for each row; 0: none."""
        if not self.enabled or rows > MOST_ROWS or not group.verifies:
            return 0
        hopes = [hope for sequence in group.sequences if (hope := _hope(sequence))]
        if not hopes:
            return 0
        count = len(group.sequences)
        best, best_rate = 0, _MARGIN * count
        for size in _SIZES:
            shape = Shape(count, size + 1)
            if count * shape.width > _MOST_POSITIONS:
                break
            rate = (count + sum(hope.gain(size) for hope in hopes)) / self.costs.ratio(shape)
            if rate > best_rate:
                best, best_rate = size, rate
        if not best:
            self.costs.pass_over(count)
        return best


def _hope(sequence: Sequence) -> _Hope | None:
    lookup = sequence.lookup
    if lookup is None or (room := _room(sequence)) <= 0:
        return None
    lookup.catch_up()
    return _Hope(lookup.confidence, room) if lookup.ready else None


def _draft(sequence: Sequence, size: int) -> list[int]:
    """At most `size` tokens that may come next, as far as the row's grammar allows them."""
    lookup = sequence.lookup
    if lookup is None or (room := _room(sequence)) <= 0:
        return []
    draft = lookup.draft(min(size, room))
    return sequence.grammar.allowed(draft) if sequence.grammar is not None else draft


def _room(sequence: Sequence) -> int:
    """How many tokens can be drafted. The step itself gives one more than are accepted."""
    if not sequence.wants_step:
        return 0
    room = sequence.max_tokens - sequence.launched - 1
    return room if sequence.thinking is None else min(room, sequence.thinking.free)
