"""Responses that clients may come back to."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import msgspec

from mlx_server_nano.api.responses_items import Item
from mlx_server_nano.errors import NotFoundError

_CAPACITY: Final = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """body: the response as JSON. history: the items before the request's own. input: these. output: the answer's."""

    id: str
    body: bytes
    history: tuple[Item, ...]
    input: tuple[Item, ...]
    output: tuple[Item, ...]

    @property
    def conversation(self) -> tuple[Item, ...]:
        return self.history + self.input + self.output


class ResponseStore:
    """Keeps responses in memory, the least recently used leaving first when all together exceed `capacity` bytes of JSON,
    each counted with its whole conversation. Nothing survives the server."""

    def __init__(self, capacity: int = _CAPACITY) -> None:
        self._room = capacity
        self._entries: OrderedDict[str, tuple[Stored, int]] = OrderedDict()
        self._items: dict[str, Item] = {}

    def add(self, stored: Stored) -> None:
        size = len(stored.body) + len(msgspec.json.encode(stored.conversation))
        self._entries[stored.id] = stored, size
        self._room -= size
        for item in stored.input + stored.output:
            if item.id is not None:
                self._items[item.id] = item
        while self._room < 0:
            self._drop(next(iter(self._entries)))

    def get(self, response_id: str) -> Stored:
        """Raises NotFoundError."""
        if response_id not in self._entries:
            raise NotFoundError(f"There is no stored response {response_id!r}.")
        self._entries.move_to_end(response_id)
        return self._entries[response_id][0]

    def item(self, item_id: str) -> Item | None:
        """An item of a stored response, input or output."""
        return self._items.get(item_id)

    def delete(self, response_id: str) -> None:
        """Raises NotFoundError."""
        self.get(response_id)
        self._drop(response_id)

    def _drop(self, response_id: str) -> None:
        stored, size = self._entries.pop(response_id)
        self._room += size
        for item in stored.input + stored.output:
            if item.id is not None and self._items.get(item.id) is item:
                del self._items[item.id]
