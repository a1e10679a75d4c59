"""Prompt look-up: what follows the last tokens wherever they stood before. Pure; free of cost for the model.

Answers quote: code that is edited, passages that are cited, names. Where the last three tokens stood before, in the
prompt or the answer, the row is taken to go on as it did there, for as long as it does."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

_BITS: Final = 21  # of a token id; three ids make a key of 63 bits
_MASK: Final = (1 << 3 * _BITS) - 1
_MATCH: Final = 3
# Weight of the newest prediction in `Lookup.confidence`, and what it starts at.
_NEWEST: Final = 0.15
_FIRST: Final = 0.3


class PromptIndex:
    """Where each three tokens of a prompt stand for the last time, as two sorted arrays: 16 bytes a token. Shared by the
    choices of a request; built when it is first asked."""

    def __init__(self, prompt: list[int]) -> None:
        self.prompt = prompt
        self._keys: np.ndarray[Any, np.dtype[np.int64]] | None = None

    def find(self, key: int) -> int | None:
        """The position of the token that followed these three."""
        if self._keys is None:
            # The last three are followed by nothing yet.
            ids = np.array(self.prompt[:-1], dtype=np.int64)
            keys = ids[:-2] << 2 * _BITS | ids[1:-1] << _BITS | ids[2:]
            self._order = np.argsort(keys, kind="stable")
            self._keys = keys[self._order]
        at = int(self._keys.searchsorted(key, side="right")) - 1
        return int(self._order[at]) + _MATCH if at >= 0 and self._keys[at] == key else None


class Lookup:
    """One row's predictions. `confidence`: the share of the latest ones that came true, whether they were used or not: a
    prediction costs a few microseconds, so it is checked all the time and nothing has to be tried out."""

    def __init__(self, index: PromptIndex, output: list[int]) -> None:
        """output: the row's own list, which grows."""
        self.confidence = _FIRST
        self._index = index
        self._prompt = index.prompt
        self._output = output
        self._seen = 0
        self._recent: dict[int, int] = {}
        self._key = 0
        for token in self._prompt[-_MATCH:]:
            self._key = self._key << _BITS | token
        self._next = self._find()

    def catch_up(self) -> None:
        """Take in what the row has said since the last call."""
        for token in self._output[self._seen :]:
            self._advance(token)

    def draft(self, most: int) -> list[int]:
        """At most so many tokens that may come next. A repetition shorter than that goes on into itself."""
        if self._next is None:
            return []
        length = len(self._prompt) + self._seen
        draft: list[int] = []
        for at in range(self._next, self._next + most):
            draft.append(self._token(at) if at < length else draft[at - length])
        return draft

    @property
    def ready(self) -> bool:
        """Whether there is something to draft."""
        return self._next is not None

    def _advance(self, token: int) -> None:
        if self._next is not None:
            hit = self._token(self._next) == token
            self.confidence += _NEWEST * (hit - self.confidence)
            self._next = self._next + 1 if hit else None
        position = len(self._prompt) + self._seen
        self._seen += 1
        if position >= _MATCH:
            self._recent[self._key] = position
        self._key = (self._key << _BITS | token) & _MASK
        if self._next is None:
            self._next = self._find()

    def _find(self) -> int | None:
        if len(self._prompt) + self._seen < _MATCH:
            return None
        found = self._recent.get(self._key)
        return self._index.find(self._key) if found is None else found

    def _token(self, at: int) -> int:
        before = len(self._prompt)
        return self._prompt[at] if at < before else self._output[at - before]
