"""Where rows get their caches from, and where they leave them for later requests.

A row that goes on where an entry ends takes that entry's caches over, uncopied, and they stay in the tree for others to copy
from. A row that branches off earlier gets a copy of the part it shares. What a model's caches allow decides the rest: plain
attention can be cut at any token; sliding windows and states can't, so snapshots of them are kept where requests are likely
to branch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_server_nano.worker import slots
from mlx_server_nano.worker.disk import DiskTier, Fetched
from mlx_server_nano.worker.prefix import Entry, PrefixCache, Tokens, common
from mlx_server_nano.worker.ranks import ALONE, Ranks
from mlx_server_nano.worker.scheduler import Prepared

_LOG = logging.getLogger(__name__)

Caches = list[Any]

# A takeover forgets the entry's tokens behind the match: fine for the tail of an answer, not for half a conversation.
_FORGETTABLE = 256
# Fewer tokens, and less than a quarter of a prompt, are computed again: all prompts begin with a few that their template writes,
# and those that begin from nothing can share a pass.
_WORTH_COPYING = 16


def as_tokens(ids: list[int]) -> Tokens:
    return np.array(ids, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class Start:
    """Caches for a prompt that hold its first `length` tokens. `lease`: the entry whose caches they are."""

    caches: Caches
    length: int = 0
    lease: Entry | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """An entry of which a prompt can use the first `length` tokens. moves: the prompt takes its caches over; else it copies
    or shares them."""

    entry: Entry
    length: int
    moves: bool


class Reuse:
    def __init__(
        self, new_caches: Callable[[], Caches], budget: int, disk: DiskTier | None = None, ranks: Ranks = ALONE
    ) -> None:
        """budget: bytes for caches that no row uses; 0: nothing is reused. disk: where they go when there is no room."""
        self._new_caches = new_caches
        self._ranks = ranks
        budget = ranks.agree(budget)
        probe = new_caches()
        self.cuttable = ranks.everywhere(all(slots.cuttable(cache) for cache in probe))
        self._enabled = ranks.everywhere(budget > 0 and all(slots.batchable(cache) for cache in probe))
        self._budget = budget
        self._disk = disk if self._enabled else None
        self._prefixes = PrefixCache(budget, cut=self.cuttable, evicted=self._spill if self._disk else None)

    @property
    def nbytes(self) -> int:
        return self._prefixes.nbytes

    def will_share(self, coming: Prepared, ids: list[int]) -> int:
        """How many tokens of a prompt could be taken from one that is still computed, once it is through."""
        if not self._enabled:
            return 0
        shared = common(as_tokens(coming.ids[:-1]), as_tokens(ids[:-1]))
        if self.cuttable:
            return shared
        return max((at for at in (*coming.branches, len(coming.ids) - 1) if at <= shared), default=0)

    def fresh(self) -> Start:
        """Empty caches."""
        return Start(self._new_caches())

    def find(self, ids: list[int]) -> Found | None:
        """What `start` would use now. All but the last token at most may come from the cache, as decoding needs one to
        begin with."""
        found = self._prefixes.find(as_tokens(ids[:-1]))
        if found is None:
            return None
        entry, length = found
        if not self.cuttable:
            return Found(entry, length, not entry.node.children)
        if length < min(_WORTH_COPYING, len(ids) // 4):
            return None
        forgotten = entry.length - length
        return Found(entry, length, not entry.leased and forgotten <= max(_FORGETTABLE, length // 4))

    def start(self, ids: list[int]) -> Start:
        """Caches for a prompt, empty ones where there is no memory for a copy."""
        try:
            return self._start(ids)
        except Exception as error:
            self._give_up(error)
            return self.fresh()

    def _start(self, ids: list[int]) -> Start:
        found = self.find(ids)
        if found is None:
            return self.fresh()
        entry, length = found.entry, found.length
        if not self.cuttable:
            if not found.moves:
                return Start([slots.fork(cache) for cache in entry.caches], length)
            self._prefixes.remove(entry)
            return Start(entry.caches, length)
        if not found.moves:
            caches = [slots.cut_copy(cache, length) for cache in entry.caches]
            mx.async_eval([array for cache in caches for array in slots.arrays(cache)])
            return Start(caches, length)
        for cache in entry.caches:
            slots.cut(cache, length)
        self._prefixes.lease(entry, as_tokens(ids[:length]))
        return Start(entry.caches, length, entry)

    def fetch(self, prepared: Prepared) -> bool:
        """Have caches read from the disk if it holds more of a prompt than the memory. True: `Fetched` will follow."""
        if self._disk is None or prepared.scored:
            return False
        found = self._prefixes.peek(as_tokens(prepared.ids[:-1]))
        return self._disk.fetch(prepared, found[1] if found is not None else 0, self._budget)

    def computed(self, start: int, stop: int, seconds: float) -> None:
        """A prompt's tokens from `start` to `stop` took so long: what the disk has to beat."""
        if self._disk is not None:
            self._disk.payoff.computed(start, stop, seconds)

    def take_in(self, fetched: Fetched) -> list[Prepared]:
        """Keep what was read, also if its requests are gone. Gives those that still wait."""
        if self._disk is None:
            return []
        caches, waiting = self._disk.take(fetched)
        if caches is not None:
            self._keep(fetched.kept.tokens.tolist(), caches)
        return waiting

    def cancel(self, request_id: int) -> None:
        """Nobody waits any more for what the disk is asked for."""
        if self._disk is not None:
            self._disk.cancel(request_id)

    @property
    def leaving(self) -> bool:
        """Whether `step` has something to do."""
        return self._disk is not None and self._disk.ready

    def step(self) -> None:
        """Move a portion of what was evicted towards the disk."""
        if self._disk is not None:
            self._disk.step()

    def close(self, seconds: float) -> None:
        """Write what is held to disk, as far as it goes in this time."""
        if self._disk is not None:
            self._disk.close(((tokens, entry.caches) for tokens, entry in self._prefixes.unleased()), seconds)

    def _spill(self, tokens: Tokens, entry: Entry) -> None:
        if self._disk is not None:
            self._disk.spill(tokens, entry.caches)

    def snapshot(self, ids: list[int], caches: Caches) -> None:
        """Keep what a prefill has computed where caches can't be cut, while it goes on in the same ones."""
        if not self.cuttable and ids:
            self._keep(ids, [slots.fork(cache) for cache in caches])

    def share(self, lease: Entry | None, ids: list[int], caches: Caches) -> Entry | None:
        """A prefill is done and decoding goes on in these caches: let others copy from them meanwhile."""
        if not self.cuttable or not ids:
            return lease
        self.forget(lease)
        entry = self._keep(ids, caches)
        if entry is not None:
            self._prefixes.lease(entry, as_tokens(ids))
        return entry

    def copied(self, lease: Entry | None) -> None:
        """The row has left its own caches for slots; they stay as they are."""
        if lease is not None:
            self._prefixes.release(lease)

    def finish(self, lease: Entry | None, ids: list[int], caches: Callable[[], Caches]) -> None:
        """A row is through; its caches hold exactly these tokens."""
        self.forget(lease)
        if not self._enabled or not ids:
            return
        try:
            kept = caches()
            mx.async_eval([array for cache in kept for array in slots.arrays(cache)])
        except Exception as error:
            self._give_up(error)
        else:
            self._keep(ids, kept)

    def forget(self, lease: Entry | None) -> None:
        """The leased caches are no good any more, or about to be kept under more tokens."""
        if lease is not None:
            self._prefixes.remove(lease)

    def evict(self) -> bool:
        """Give the memory of the least recently used entry back. False if there is none."""
        return self._prefixes.evict()

    def make_room(self, short: Callable[[], int], found: Found | None = None) -> bool:
        """Evict, but for what was found, until `short()` bytes are 0 or less. False, with nothing evicted, if there is not
        that much."""
        if short() > self.nbytes:
            return False
        while short() > 0:
            if not self._prefixes.evict(found.entry if found is not None else None):
                return False
        return True

    def clear(self) -> None:
        """Give the memory back that no row uses."""
        self._prefixes.clear()

    def free(self) -> None:
        """Clear, and leave what is free to the system."""
        self.clear()
        mx.clear_cache()

    def _give_up(self, error: Exception) -> None:
        """Caches could not be copied: that is no reason for a request to fail, and the others give their memory back."""
        self._ranks.fail(error)
        _LOG.warning("The prefix cache is cleared, as a copy failed: %s", error)
        self.free()

    def _keep(self, ids: list[int], caches: Caches) -> Entry | None:
        if not self._enabled:
            return None
        nbytes = sum(array.nbytes for cache in caches for array in slots.arrays(cache))
        return self._prefixes.insert(as_tokens(ids), caches, self._ranks.agree(nbytes))
