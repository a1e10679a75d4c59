"""A worker's events as structured answers: one machine for each choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_server_nano.chat.custom import CustomInputs
from mlx_server_nano.chat.deltas import CallStart, Delta, ReasoningDelta
from mlx_server_nano.chat.machine import Machine
from mlx_server_nano.chat.start import starts_in_reasoning
from mlx_server_nano.protocol import Delta as TextDelta
from mlx_server_nano.protocol import Event, Started
from mlx_server_nano.types import FinishReason, TokenLogprob

if TYPE_CHECKING:
    from mlx_server_nano.chat.model import Bound


@dataclass(frozen=True, slots=True)
class Piece:
    """What one event says about a choice. `finish` comes with its last piece, `stop` is the stop string that ended it."""

    choice: int
    deltas: Sequence[Delta]
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: FinishReason | None = None
    stop: str | None = None


@dataclass(slots=True)
class Usage:
    """Tokens of a request, all choices together. `cached` of the `prompt` tokens came from the prefix cache; `reasoning` of the
    `completion` tokens were reasoning, its markup included."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0


class Answers:
    """Feed it a request's events."""

    def __init__(self, bound: Bound) -> None:
        self._bound = bound
        self._machines: list[Machine] = []
        self._inputs = [CustomInputs(bound.custom) for _ in range(bound.request.n)]
        self._reasoning: list[bool] = []
        self._called = [False] * bound.request.n
        self.usage = Usage()

    def feed(self, events: Sequence[Event]) -> list[Piece]:
        pieces: list[Piece] = []
        for event in events:
            if isinstance(event, TextDelta):
                pieces.append(self._read(event))
            elif isinstance(event, Started):
                self._start(event)
        return pieces

    def _start(self, event: Started) -> None:
        self.usage.prompt, self.usage.cached = event.prompt_tokens, event.cached_tokens
        format, tools, n = self._bound.format, self._bound.tools, self._bound.request.n
        inside = starts_in_reasoning(format, event.prompt_tail)
        self._machines = [Machine(format, tools, starts_in_reasoning=inside, calls=bool(tools)) for _ in range(n)]
        self._reasoning = [inside] * n

    def _read(self, event: TextDelta) -> Piece:
        choice, machine = event.choice, self._machines[event.choice]
        deltas = machine.feed(event.text)
        if event.finish is not None:
            deltas += machine.finish()
        self.usage.completion += event.tokens
        if isinstance(deltas[0], ReasoningDelta) if deltas else self._reasoning[choice]:
            self.usage.reasoning += event.tokens
        for delta in deltas:
            self._reasoning[choice] = isinstance(delta, ReasoningDelta)
            self._called[choice] |= isinstance(delta, CallStart)
        finish = event.finish
        if finish is FinishReason.STOP and self._called[choice]:
            finish = FinishReason.TOOL_CALLS
        return Piece(choice, self._inputs[choice].read(deltas), event.logprobs, finish, event.stop)
