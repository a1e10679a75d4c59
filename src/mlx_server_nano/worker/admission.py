"""Which work there is memory for.

What MLX holds is asked of MLX; what running work will still need is reckoned from its length. A prompt begins only if
beside it every row can write some hundreds of tokens more. When rows have grown to the limit all the same, the engine
takes memory back from the prefix cache, then from the youngest row, which waits and is computed again later."""

from __future__ import annotations

from collections.abc import Callable

from mlx_server_nano.errors import ContextLengthError
from mlx_server_nano.worker.ranks import ALONE, Ranks
from mlx_server_nano.worker.row_cost import RowCost
from mlx_server_nano.worker.slots import GROWTH

_AHEAD = 512  # tokens of its answer that a row has a claim on, at any time
_GIB = 1 << 30


class Admission:
    """limit: bytes that MLX may hold, weights included; None: no limit is known."""

    def __init__(self, cost: RowCost, context_length: int, held: Callable[[], int], ranks: Ranks = ALONE) -> None:
        """held: bytes of the arrays that live now; at the start these are the weights."""
        self.limit: int | None = None
        self._cost = cost
        self._context_length = context_length
        self._held = held
        self._ranks = ranks
        self._weights = held()
        self._reserve = self._workspace = self._weights // 16

    def note_workspace(self, nbytes: int) -> None:
        """A forward pass took this much beside what stayed: the next ones may too, of prompts as long."""
        self._workspace = max(self._reserve, nbytes, self._workspace - self._workspace // 8)

    @property
    def context_length(self) -> int:
        """Tokens that a row can have when it runs alone: the model's context, or what memory allows."""
        if self.limit is None:
            return self._context_length
        room = self.limit - self._weights - self._reserve
        return self._ranks.agree(max(0, self._cost.longest(room, self._context_length + GROWTH) - GROWTH))

    def check(self, tokens: int) -> None:
        """Raises ContextLengthError for a prompt that no wait will make room for."""
        if self.limit is not None and tokens + 1 > (fit := self.context_length) and fit < self._context_length:
            raise ContextLengthError(
                f"The prompt has {tokens} tokens, whose KV cache takes {self._cost(tokens) / _GIB:.2f} GiB. Beside the model's"
                f" weights ({self._weights / _GIB:.2f} GiB) the memory limit ({self.limit / _GIB:.2f} GiB) leaves room for"
                f" {fit} tokens, the answer's included. Shorten the prompt, or start the server with more --max-memory."
            )

    def short(self, need: int) -> int:
        """Bytes that are missing for `need` more; 0 or less: there is room."""
        if self.limit is None:
            return 0
        return self._ranks.agree(self._held() + self._workspace + need - self.limit)

    def to_begin(self, tokens: int, answer: int | None, rows: int, reused: int) -> int:
        """Bytes for a prompt and the first part of `rows` answers of at most `answer` tokens. reused: tokens in caches that it
        takes over."""
        ahead = _AHEAD if answer is None else min(answer, _AHEAD)
        return rows * self._blocks(tokens + ahead) - self._blocks(reused)

    def to_go_on(self, tokens: int, left: int) -> int:
        """Bytes that a row of this length has a claim on, `left` tokens being the most that it may add."""
        return self.for_more(tokens, min(left, _AHEAD))

    def for_more(self, tokens: int, more: int) -> int:
        return self._blocks(tokens + more) - self._blocks(tokens)

    def _blocks(self, tokens: int) -> int:
        """What a row's own caches take for these tokens: they grow in steps."""
        return self._cost(-(-tokens // GROWTH) * GROWTH) if tokens else 0

    def is_near(self, rows: int) -> bool:
        """Whether the next step of so many rows may reach the limit: a cheap bound for what it adds. Slots grow by an eighth."""
        if self.limit is None:
            return False
        held = self._held()
        growth = (held - self._weights) // 4 + rows * self._cost(2 * GROWTH)
        return self._ranks.agree(held + self._workspace + growth - self.limit) > 0
