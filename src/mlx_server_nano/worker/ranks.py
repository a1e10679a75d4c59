"""What an engine asks of the processes that it shares its model with. `Ranks` is the usual case: there are none.

Several processes, the ranks, may run one model together, each with its own part of the weights (see `distributed`). Their
forward passes meet at every layer, so all must make the same ones in the same order. Whatever an engine learns from outside
its model goes through here: what came in, and every number that depends on the machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from mlx_server_nano.protocol import ToWorker

if TYPE_CHECKING:
    import mlx.core as mx

    from mlx_server_nano.worker.channel import Inbox
    from mlx_server_nano.worker.engine import Incoming


class Ranks:
    """This process alone."""

    several = False

    def forward(self, message: ToWorker) -> None:
        """Tell the other ranks what the gateway says, as soon as it does."""

    def split(self, model: Any, config: dict[str, Any]) -> None:
        """Keep this rank's part of a model whose weights are not read yet. Raises UnsupportedModelError if there is no such
        part."""

    def everywhere(self, holds: bool) -> bool:
        """Whether it holds on all ranks; waits for them."""
        return holds

    def take(self, inbox: Inbox[Incoming], *, wait: bool) -> list[Incoming]:
        """What the next turn takes in."""
        return inbox.take(wait=wait)

    def agree(self, number: int) -> int:
        """Rank 0's number, whatever this rank has measured."""
        return number

    def share(self, tokens: mx.array) -> mx.array:
        """The tokens that rank 0 has drawn, lazy."""
        return tokens

    def fail(self, error: Exception) -> None:
        """A forward pass failed. Where it may have gone well on other ranks, nothing can follow."""

    def end(self) -> None:
        """The engine's work is done, and the process's with it: nothing is left to be put in order."""
        os._exit(0)


ALONE: Final = Ranks()
