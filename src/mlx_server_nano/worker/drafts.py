"""Drafted tokens on their way through a forward pass."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass
from enum import Enum


class Verifying(Enum):
    """Whose drafts a model can verify, as it can take back what it has computed for wrong ones: nobody's; those of a row that
    decodes alone, from a copy; those of all rows, as all caches can be cut."""

    NOBODY = "nobody"
    ALONE = "alone"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Drafts:
    """For each row of a step the tokens that are guessed to follow its last one, fewer than `width`: the tokens of a row
    that go through the model. share: see `Shape`."""

    tokens: list[list[int]]
    width: int
    share: float = 0.0

    def inputs(self, last: Rows[int]) -> list[list[int]]:
        """`[rows, width]`: each row's last token, its draft, and anything in the rest."""
        return [
            [token, *draft, *[0] * (self.width - 1 - len(draft))]
            for token, draft in zip(last, self.tokens, strict=True)
        ]

    def accepted(self, row: int, drawn: list[int]) -> list[int]:
        """What a row says, of the tokens drawn at its positions: up to the first that the draft does not go on from."""
        draft = self.tokens[row]
        count = 0
        while count < len(draft) and draft[count] == drawn[count]:
            count += 1
        return drawn[: count + 1]
