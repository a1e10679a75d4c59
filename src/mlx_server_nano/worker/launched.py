"""Steps and forward passes that have been launched and not been read."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from mlx_server_nano.worker.costs import Shape
from mlx_server_nano.worker.drafts import Drafts
from mlx_server_nano.worker.group import Group
from mlx_server_nano.worker.logprobs import LogprobReader
from mlx_server_nano.worker.sequence import Sequence


@dataclass(frozen=True, slots=True, eq=False)
class LaunchedStep:
    """A step on its way: tokens `[rows]`, lazy, for these sequences; `[rows, width]` where it verifies drafts. before: the
    length of each row's output when it was launched."""

    group: Group
    tokens: mx.array
    sequences: list[Sequence]
    logprobs: LogprobReader | None
    drafts: Drafts | None
    before: list[int]

    @property
    def shape(self) -> Shape:
        return (
            Shape(len(self.sequences), self.drafts.width, self.drafts.share)
            if self.drafts
            else Shape(len(self.sequences), 1)
        )


@dataclass(frozen=True, slots=True)
class LaunchedPass:
    """A forward pass on its way; its step waits for the last tokens if a grammar does."""

    group: Group
    logits: mx.array
    drafts: Drafts | None
    step: LaunchedStep | None
