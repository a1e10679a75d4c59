"""Which prompts are worked on next. Pure: no MLX, no clock.

Requests are admitted in the order they came, as long as their rows fit the batch and memory. Each step has a budget of prompt
tokens. The oldest admitted prompt is finished if the budget suffices; else half of it is its, so that a long one always
moves on. The rest goes to those with the least left to do, so that a short one does not wait behind it. As every portion is a
pass over the weights, none is small but the last of a prompt."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from mlx_server_nano.types import GenerationRequest, TokenLogprob

if TYPE_CHECKING:
    from mlx_server_nano.worker.grammar import RowGrammar
    from mlx_server_nano.worker.prefix import Entry
    from mlx_server_nano.worker.sequence import Sequence
    from mlx_server_nano.worker.thinking import ThinkingLimit

# A portion that does not finish its prompt is this share of a step's budget or more.
_PORTIONS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A request with its prompt rendered and tokenized. `tail`: the prompt's last characters; `continues_text`: the
    output follows on plain text, not on a chat turn; `grammar` and `thinking`: as at the start;
    `branches`: counts of tokens after which later requests are likely to differ from this one."""

    request_id: int
    request: GenerationRequest
    ids: list[int]
    tail: str
    continues_text: bool
    grammar: RowGrammar | None = None
    thinking: ThinkingLimit | None = None
    branches: tuple[int, ...] = ()

    @property
    def scored(self) -> bool:
        """Whether the log-probabilities of the prompt itself are wanted: all of it must go through the model."""
        return self.request.echo and self.request.logprobs is not None


@dataclass(slots=True, eq=False)
class Prefill:
    """A prompt that waits or is worked on. `done` of its tokens are in its caches; the last one is left for decoding.

    row: a row that was interrupted and is computed again: its prompt and output are the prompt here. caches and lease: the
    engine's (see `reuse`). logprobs: of its tokens after the first, if the prompt is scored. announced: the gateway knows that
    it has begun. retried: it failed once for lack of memory. behind: the prompt that it lets compute what both begin with.
    """

    prepared: Prepared
    row: Sequence | None = None
    done: int = 0
    caches: list[Any] = field(default_factory=list)
    lease: Entry | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)
    announced: bool = False
    retried: bool = False
    behind: Prefill | None = None

    @property
    def remaining(self) -> int:
        return max(0, len(self.prepared.ids) - 1 - self.done)

    @property
    def order(self) -> tuple[int, int]:
        """Requests are numbered as they come."""
        return self.prepared.request_id, self.row.choice if self.row is not None else 0

    def restart(self) -> None:
        """Forget what has been computed."""
        self.done, self.caches, self.lease = 0, [], None
        self.logprobs.clear()


def _always(prefill: Prefill) -> bool:
    return True


def _never(prefill: Prefill) -> bool:
    return False


class Scheduler:
    def __init__(self, max_rows: int) -> None:
        """max_rows: sequences that may be prefilled or decoded at a time; a request counts as its `n`."""
        self._max_rows = max_rows
        self._waiting: deque[Prefill] = deque()
        self.prefills: list[Prefill] = []

    def add(self, prepared: Prepared) -> None:
        self._waiting.append(Prefill(prepared))

    def put_back(self, prefill: Prefill) -> None:
        """It waits (again), before all that came later."""
        if prefill in self.prefills:
            self.prefills.remove(prefill)
        later = (at for at, other in enumerate(self._waiting) if other.order > prefill.order)
        self._waiting.insert(next(later, len(self._waiting)), prefill)

    @property
    def idle(self) -> bool:
        return not self._waiting and not self.prefills

    def admit(
        self,
        decoding_rows: int,
        fits: Callable[[Prefill], bool] = _always,
        begin: Callable[[Prefill], None] = lambda prefill: None,
        defers: Callable[[Prefill], bool] = _never,
    ) -> list[Prefill]:
        """Move waiting requests to prefill while there is room, and `begin` each before the next is looked at. A request
        with more choices than rows runs when all else is done, and so does one that does not fit: what never will is not to
        be added. defers: it waits by its own choice, and those that came later pass it."""
        admitted: list[Prefill] = []
        rows = decoding_rows + sum(prefill.prepared.request.n for prefill in self.prefills)
        for prefill in list(self._waiting):
            if rows and rows + prefill.prepared.request.n > self._max_rows:
                break
            if defers(prefill):
                continue
            if not fits(prefill) and rows:
                break
            self._waiting.remove(prefill)
            rows += prefill.prepared.request.n
            self.prefills.append(prefill)
            admitted.append(prefill)
            begin(prefill)
        return admitted

    def plan(self, budget: int) -> list[tuple[Prefill, int]]:
        """Prompts and how many tokens of each to process in this step, at most `budget` together. Those with nothing
        left come first, with a count of 0: they can decode."""
        chosen: dict[int, int] = {}
        ready = [prefill for prefill in self.prefills if prefill.remaining == 0]
        pending = [prefill for prefill in self.prefills if prefill.remaining > 0]
        if pending:
            oldest, *others = pending
            finishes = not others or oldest.remaining <= budget
            portion = min(oldest.remaining, budget if finishes else budget - budget // 2)
            left = budget - portion
            for prefill in sorted(others, key=lambda p: p.remaining):
                more = min(prefill.remaining, left)
                if more == prefill.remaining or more >= max(1, budget // _PORTIONS):
                    chosen[id(prefill)] = more
                    left -= more
            chosen[id(oldest)] = min(oldest.remaining, portion + left)
        return [(p, 0) for p in ready] + [(p, chosen[id(p)]) for p in pending if id(p) in chosen]

    def remove(self, prefill: Prefill) -> None:
        self.prefills.remove(prefill)

    def cancel(self, request_id: int) -> list[Prefill]:
        """Forget what of a request does not decode. Gives those that were admitted."""
        self._waiting = deque(p for p in self._waiting if p.prepared.request_id != request_id)
        gone = [p for p in self.prefills if p.prepared.request_id == request_id]
        self.prefills = [p for p in self.prefills if p.prepared.request_id != request_id]
        return gone
