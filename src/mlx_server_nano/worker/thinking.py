"""A limit on a row's reasoning: when it is spent, the worker writes the reasoning's end in the model's place."""

from __future__ import annotations

from collections import deque

from mlx_server_nano.types import ThinkingBudget

_UNLIMITED = 1 << 30


class ThinkingLimit:
    """One row's count. `forced` is the token that must come next, None where the model is free."""

    def __init__(self, budget: ThinkingBudget, closing: list[int], *, inside: bool) -> None:
        """closing: the tokens of the reasoning's end. inside: the prompt ends within the reasoning."""
        self._budget = budget
        self._closing = closing
        self._inside = inside
        self._over = False
        self._left = budget.tokens
        self._text = ""
        self._queue: deque[int] = deque(closing if inside and budget.tokens == 0 else ())

    def fork(self) -> ThinkingLimit:
        """For another choice, from the start."""
        return ThinkingLimit(self._budget, self._closing, inside=self._inside)

    @property
    def active(self) -> bool:
        """Whether the limit may still act: its rows wait for their last token before the next is sampled."""
        return not self._over

    @property
    def forced(self) -> int | None:
        return self._queue[0] if self._queue else None

    @property
    def free(self) -> int:
        """How many tokens can be drafted: whatever they are, the one after them is not forced."""
        if self._over:
            return _UNLIMITED
        return 0 if self._queue or not self._inside else self._left - 1

    def advance(self, text: str, *, whole: bool = True) -> None:
        """A token was taken, which said this. whole: no character is left unfinished; before that nothing can be forced."""
        if self._over:
            return
        if self._queue:
            self._queue.popleft()
            self._over = not self._queue
            return
        self._text += text
        if not self._inside:
            self._look_for_opening()
            return
        self._left -= 1
        if self._budget.close in self._text:
            self._over = True
        elif self._left <= 0 and whole:
            self._queue.extend(self._closing)
        self._text = self._text[-len(self._budget.close) :]

    def _look_for_opening(self) -> None:
        """Models open their reasoning first of all, or not at all."""
        said = self._text.lstrip()
        self._inside = said.startswith(self._budget.open)
        self._over = not self._budget.open.startswith(said[: len(self._budget.open)])
        if self._inside:
            self._text = ""
            if self._left <= 0:
                self._queue.extend(self._closing)
