"""A small model that guesses what a large one says next.

It keeps caches of its own for the rows that it drafts for, in slots: a row's prompt goes through it in portions while the
row decodes already, and before it drafts it takes in what the row has said meanwhile. Where the large model draws at
random, so does this one, by the same number: where both think alike they then say the same, and a seed's text does not
depend on it."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Rows
from typing import Any, Final

import mlx.core as mx

from mlx_server_nano.worker import slots
from mlx_server_nano.worker.positions import Positions
from mlx_server_nano.worker.prefix import Entry
from mlx_server_nano.worker.reuse import Reuse, Start
from mlx_server_nano.worker.row_cost import RowCost, growth
from mlx_server_nano.worker.sampler import Choice
from mlx_server_nano.worker.sequence import Sequence

_PORTION: Final = 512  # tokens of a row that are taken in at a time
_NEWEST: Final = 0.1  # weight of the newest guess in a row's confidence
_FIRST: Final = 0.6
_RECOVERY: Final = 0.002


class _Row:
    """A sequence as the small model knows it: `length` of its tokens are in the cache. `drafted`: what was guessed to follow
    the first `known` of them, not yet judged; all but its last token are in the cache as well."""

    def __init__(self, sequence: Sequence, start: Start) -> None:
        self.sequence = sequence
        self.caches = start.caches
        self.lease: Entry | None = start.lease
        self.length = start.length
        self.drafted: list[int] = []
        self.known = 0
        self.confidence = _FIRST

    @property
    def total(self) -> int:
        return len(self.sequence.prompt) + len(self.sequence.output)

    @property
    def missing(self) -> int:
        """Tokens that are not in the cache, the last one included, which drafting begins with."""
        return self.total - self.length

    def tokens(self, start: int, count: int | None = None) -> list[int]:
        before = len(self.sequence.prompt)
        output = self.sequence.output
        found = self.sequence.prompt[start:] + output if start < before else output[start - before :]
        return found if count is None else found[:count]

    def judge(self) -> None:
        """Hold the last draft against what came: what came true is in the cache."""
        if not self.drafted or self.total == self.known:
            return
        came = self.tokens(self.known, len(self.drafted))
        right = next((i for i, token in enumerate(came) if token != self.drafted[i]), len(came))
        for _ in range(right):
            self.confidence += _NEWEST * (1 - self.confidence)
        if right < len(came):
            self.confidence -= _NEWEST * self.confidence
        self.length = min(self.known + min(right, len(self.drafted) - 1), self.total - 1)
        self.drafted = []


class DraftModel:
    """share: bytes of its weights, of the large model's."""

    def __init__(
        self,
        model: Any,
        new_caches: Callable[[], list[Any]],
        *,
        vocab_size: int,
        context_length: int,
        share: float,
        row_cost: RowCost,
        budget: int,
    ) -> None:
        """vocab_size: of the large model. budget: bytes for caches of rows that are through, see `Reuse`."""
        self.share = share
        self._model = model
        self._vocab_size = vocab_size
        self._context_length = context_length
        self._row_cost = row_cost
        self._new_caches = new_caches
        self._reuse = Reuse(new_caches, budget)
        self._caches = self._new_slots()
        self._coming: list[_Row] = []
        self._rows: list[_Row] = []

    def confidence(self, sequence: Sequence) -> float | None:
        """The share of the latest guesses for a row that came true; None: it can't be drafted for yet."""
        row = self._row(sequence)
        if row is None:
            return None
        row.judge()
        return row.confidence

    def pass_over(self) -> None:
        """No guesses were asked for, perhaps for how they once went: that counts less and less."""
        for row in self._rows:
            row.confidence += _RECOVERY * (_FIRST - row.confidence)

    def growth(self, ahead: int) -> int:
        """Bytes that a step adds which drafts so many tokens a row."""
        return self._slots_growth(len(self._rows), self._longest + ahead) if self._rows else 0

    def shed(self) -> bool:
        """Give all memory for caches back. False if there was none."""
        if not self._rows and not self._coming and not self._reuse.nbytes:
            return False
        for row in self._coming:
            self._reuse.forget(row.lease)
        self._reuse.clear()
        self._coming, self._rows, self._caches = [], [], self._new_slots()
        return True

    def prepare(
        self, sequences: Rows[Sequence], budget: int, has_room: Callable[[int], bool] = lambda need: True
    ) -> bool:
        """Let rows go that are through or not among these, and take new ones in that there is room for, told by bytes, with
        at most `budget` tokens of their prompts now. False: there was nothing to compute."""
        wanted = {id(s) for s in sequences if s.wants_step and s.room_within(self._context_length)}
        for index in reversed(range(len(self._rows))):
            if id(self._rows[index].sequence) not in wanted:
                self._release(index)
        self._coming = [row for row in self._coming if id(row.sequence) in wanted]
        present = {id(row.sequence) for row in (*self._coming, *self._rows)}
        for sequence in sequences:
            if id(sequence) in wanted - present and has_room(self._need(sequence)):
                self._coming.append(_Row(sequence, self._reuse.start(sequence.prompt)))
        if not self._coming:
            return False
        self._take_in(self._coming[0], budget)
        return True

    def draft(self, size: int) -> dict[int, list[int]]:
        """So many tokens for each row, by the `id` of its sequence."""
        rows = self._rows
        for row in rows:
            row.judge()
        while (width := max(row.missing for row in rows)) > _PORTION:
            self._feed(_PORTION)
        logits = self._pass([row.tokens(row.length) for row in rows], width)
        logits = logits[mx.arange(len(rows)), mx.array([row.missing - 1 for row in rows])]
        lengths = [row.total for row in rows]
        choose = Choice([row.sequence.sampling for row in rows], self._vocab_size)
        drafted: list[mx.array] = []
        for ahead in range(size):
            if ahead:
                logits = self._run(drafted[-1][:, None], [length + ahead - 1 for length in lengths])[:, -1]
            logits = logits[:, : self._vocab_size].astype(mx.float32)
            random = [row.sequence.sampling.temperature > 0 for row in rows]
            drafted.append(
                choose(
                    logits,
                    [row.sequence.draw(ahead) if drawn else 0.0 for row, drawn in zip(rows, random, strict=True)],
                )
            )
        read: Any = mx.stack(drafted, axis=1).tolist()
        for row, length, draft in zip(rows, lengths, read, strict=True):
            row.known, row.length, row.drafted = length, length - 1, draft
        return {id(row.sequence): row.drafted for row in rows}

    def _need(self, sequence: Sequence) -> int:
        """Bytes for a row: in caches of its own, from which it goes into a slot beside those that come before it."""
        length = len(sequence.prompt) + len(sequence.output) + slots.GROWTH
        coming = sum(self._row_cost(row.total + slots.GROWTH) for row in self._coming)
        return 2 * (coming + self._row_cost(length)) + self._slots_growth(
            len(self._rows) + 1, max(length, self._longest)
        )

    @property
    def _longest(self) -> int:
        return max((row.total for row in self._rows), default=0)

    def _slots_growth(self, count: int, longest: int) -> int:
        return sum(growth(mine, count, longest) for mine in self._caches if slots.arrays(mine))

    def _new_slots(self) -> list[Any]:
        return [slots.slots_for(cache) for cache in self._new_caches()]

    def _row(self, sequence: Sequence) -> _Row | None:
        return next((row for row in self._rows if row.sequence is sequence), None)

    def _take_in(self, row: _Row, budget: int) -> None:
        count = min(budget, row.missing - 1)
        if count > 0:
            self._model(mx.array([row.tokens(row.length, count)]), cache=row.caches)
            mx.eval([array for cache in row.caches for array in slots.arrays(cache)])
            row.length += count
        if row.length > 0 and row.missing <= _PORTION:
            for mine, own in zip(self._caches, row.caches, strict=True):
                slots.put(mine, len(self._rows), own)
            self._reuse.copied(row.lease)
            row.caches, row.lease = [], None
            self._coming.remove(row)
            self._rows.append(row)

    def _release(self, index: int) -> None:
        row, last = self._rows[index], len(self._rows) - 1
        row.judge()
        ids, length = row.tokens(0), row.length
        self._reuse.finish(None, ids[:length], lambda: [slots.extract(mine, index, length) for mine in self._caches])
        if index != last:
            for mine in self._caches:
                slots.move(mine, last, index)
            self._rows[index] = self._rows[last]
        self._rows.pop()
        if not self._rows:
            self._caches = self._new_slots()
            return
        for mine in self._caches:
            slots.shrink(mine, len(self._rows), max(other.length for other in self._rows))

    def _feed(self, width: int) -> None:
        """Take in what rows have said, but for the last token of each."""
        fed = [row.tokens(row.length, min(width, row.missing - 1)) for row in self._rows]
        mx.eval(self._pass(fed, width))
        for row, tokens in zip(self._rows, fed, strict=True):
            row.length += len(tokens)

    def _pass(self, tokens: list[list[int]], width: int) -> mx.array:
        padded = [[*some, *[0] * (width - len(some))] for some in tokens]
        return self._run(mx.array(padded), [row.length for row in self._rows])

    def _run(self, inputs: mx.array, lengths: list[int]) -> mx.array:
        positions = Positions.of(lengths, inputs.shape[1])
        for mine in self._caches:
            slots.begin(mine, positions)
        logits: mx.array = self._model(inputs, cache=self._caches)
        return logits
