"""What a reader of calls works on."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_server_nano.chat.lexer import Markers, Source
from mlx_server_nano.chat.sink import Sink
from mlx_server_nano.chat.values import Toolbox


@dataclass(frozen=True, slots=True)
class Context:
    """`stops`: markup that ends a call wherever it stands outside a value: the block's closings and openings.
    `tentative`: no marker has said yet that this is a call, so the name must be a declared tool's and arguments follow."""

    source: Source
    sink: Sink
    tools: Toolbox
    stops: Markers
    tentative: bool

    def accepts(self, name: str) -> bool:
        return bool(name) and (not self.tentative or self.tools.declares(name))

    def start(self, name: str, call_id: str | None = None) -> None:
        """From here on it is a call: nothing before this can become content again."""
        self.sink.start(self.tools.resolve(name), call_id)
        self.source.release()
