"""Speculation: tokens that are guessed, and then verified together in one forward pass.

A pass over a row's last token and k drafted ones gives what the model says after each of them. Every position's token is
drawn as it would be without drafts, by the row's own uniform number for that position; the drafts count only as long as
they are what was drawn. So the tokens are those of plain decoding, greedy or sampled, and a seed's text stays the same.

Drafting needs the last tokens on the host, so such a step can't be launched ahead. Whether that pays is worked out at each
step from how often guesses come true and from how long passes take, and only for few rows: for many, the device has
enough to do as it is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Final

from mlx_server_nano.worker.costs import Costs, Shape
from mlx_server_nano.worker.draft_model import DraftModel
from mlx_server_nano.worker.drafts import Drafts
from mlx_server_nano.worker.group import Group
from mlx_server_nano.worker.sequence import Sequence

_LOG = logging.getLogger(__name__)

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
    by_model: bool = False

    def gain(self, drafted: int) -> float:
        """Tokens to be expected beyond the one that every step gives."""
        count = min(drafted, self.most)
        return count if self.rate >= 1 else self.rate * (1 - self.rate**count) / (1 - self.rate)


@dataclass(frozen=True, slots=True)
class _Plan:
    """Draft so many tokens a row; by the draft model where a row's hope is in it."""

    size: int
    hopes: list[_Hope | None]

    @property
    def by_model(self) -> bool:
        return any(hope is not None and hope.by_model for hope in self.hopes)


class Speculator:
    """Decides whether and how much to draft."""

    def __init__(self, *, enabled: bool, model: DraftModel | None = None) -> None:
        self.enabled = enabled
        self.costs = Costs()
        self._model = model
        self._drafted = 0
        self._accepted = 0

    @property
    def growth(self) -> int:
        """Bytes that the draft model adds in the next step, at most."""
        return self._model.growth(_SIZES[-1]) if self._model is not None else 0

    def shed(self) -> bool:
        """Give the draft model's caches back: it begins anew when there is room. False if it has none."""
        return self._model is not None and self._model.shed()

    def prepare(self, groups: Rows[Group], budget: int, has_room: Callable[[int], bool]) -> bool:
        """Let the draft model go on with prompts; budget: tokens. has_room: for so many bytes. Whether there was anything to
        compute."""
        if self._model is None or not self.enabled:
            return False
        sequences = [sequence for group in groups for sequence in group.sequences if group.verifies]
        try:
            return self._model.prepare(sequences if len(sequences) <= MOST_ROWS else [], budget, has_room)
        except Exception:
            self._give_up()
            return False

    def reads_first(self, group: Group, rows: int) -> bool:
        """Whether the group's tokens are to be read before its next step is launched, as drafts are likely to pay.

        rows: of all groups."""
        return self._plan(group, rows) is not None

    def drafts(self, group: Group, rows: int) -> Drafts | None:
        """Drafts for the group's next step. None: a plain step."""
        if any(sequence.launched != len(sequence.output) for sequence in group.sequences if sequence.wants_step):
            return None
        plan = self._plan(group, rows)
        if plan is None:
            return None
        share, guessed = 0.0, {}
        if plan.by_model and self._model is not None:
            try:
                share, guessed = self._model.share, self._model.draft(plan.size)
            except Exception:
                self._give_up()
        tokens = [_draft(*pair, plan.size, guessed) for pair in zip(group.sequences, plan.hopes, strict=True)]
        width = 1 + max(map(len, tokens))
        return Drafts(tokens, width, share) if width > 1 else None

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

    def _plan(self, group: Group, rows: int) -> _Plan | None:
        """What promises the most tokens a second; None: plain steps do."""
        if not self.enabled or rows > MOST_ROWS or not group.verifies:
            return None
        found = [_looked_up(sequence) for sequence in group.sequences]
        choices = [(0.0, found)] if any(found) else []
        if self._model is not None:
            best = [max((a, b), key=_rate) for a, b in zip(found, map(self._guessed, group.sequences), strict=True)]
            if any(hope is not None and hope.by_model for hope in best):
                choices.append((self._model.share, best))
        plan, best_rate, count = None, _MARGIN * len(group), len(group)
        for share, hopes in choices:
            for size in _SIZES:
                shape = Shape(count, size + 1, share)
                if count * shape.width > _MOST_POSITIONS:
                    break
                tokens = count + sum(hope.gain(size) for hope in hopes if hope is not None)
                rate = tokens / self.costs.ratio(shape)
                if rate > best_rate:
                    plan, best_rate = _Plan(size, hopes), rate
        if choices and plan is None:
            self.costs.pass_over(count)
        if self._model is not None and (plan is None or not plan.by_model):
            self._model.pass_over()
        return plan

    def _guessed(self, sequence: Sequence) -> _Hope | None:
        if self._model is None or (room := _room(sequence)) <= 0:
            return None
        confidence = self._model.confidence(sequence)
        return None if confidence is None else _Hope(confidence, room, by_model=True)

    def _give_up(self) -> None:
        """Guessing is no work that a request may fail for."""
        _LOG.exception("The draft model failed and is not used any more")
        self._model = None


def _rate(hope: _Hope | None) -> float:
    return -1.0 if hope is None else hope.rate


def _looked_up(sequence: Sequence) -> _Hope | None:
    lookup = sequence.lookup
    if lookup is None or (room := _room(sequence)) <= 0:
        return None
    lookup.catch_up()
    return _Hope(lookup.confidence, room) if lookup.ready else None


def _draft(sequence: Sequence, hope: _Hope | None, size: int, guessed: dict[int, list[int]]) -> list[int]:
    """At most `size` tokens that may come next, as far as the row's grammar allows them."""
    if hope is None or sequence.lookup is None:
        return []
    count = min(size, hope.most)
    draft = guessed.get(id(sequence), [])[:count] if hope.by_model else sequence.lookup.draft(count)
    return sequence.grammar.allowed(draft) if sequence.grammar is not None else draft


def _room(sequence: Sequence) -> int:
    """How many tokens can be drafted. The step itself gives one more than are accepted."""
    if not sequence.wants_step:
        return 0
    room = sequence.max_tokens - sequence.launched - 1
    return room if sequence.thinking is None else min(room, sequence.thinking.free)
