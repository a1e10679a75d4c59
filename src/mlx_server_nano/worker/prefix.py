"""The prefix cache: KV caches of earlier prompts and answers, found again by their tokens.

A radix tree: an edge holds a run of token ids as one int32 array, an entry hangs where its tokens end. An entry of
plain attention serves any prefix of its tokens, as its caches can be cut; one with sliding windows or state arrays
serves its whole length only. Bytes are those of the arrays that the entries hold; the least recently used go first.
This module knows nothing of what a cache is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Tokens = np.ndarray[Any, np.dtype[np.int32]]


@dataclass(slots=True, eq=False)
class Entry:
    """Caches that hold at least the first `length` tokens of the path to their node.

    `leased`: a running row goes on in these very caches. They may be copied from, but neither evicted nor taken again.
    """

    caches: list[Any]
    length: int
    nbytes: int
    node: _Node
    leased: bool = False


@dataclass(slots=True, eq=False)
class _Node:
    """`label`: the tokens between the parent and this node. A node without children has an entry."""

    label: Tokens
    parent: _Node | None
    children: dict[int, _Node] = field(default_factory=dict)
    entry: Entry | None = None


class PrefixCache:
    def __init__(self, budget: int, *, cut: bool, evicted: Callable[[Tokens, Entry], None] | None = None) -> None:
        """budget: bytes that the entries that nobody leases may hold. cut: caches can be cut to any prefix. evicted: gets what
        goes because there is no room for it."""
        self._budget = budget
        self._cut = cut
        self._evicted = evicted
        self._root = _Node(np.empty(0, np.int32), None)
        self._entries: OrderedDict[int, Entry] = OrderedDict()
        self._held = 0

    @property
    def nbytes(self) -> int:
        return self._held

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, tokens: Tokens) -> tuple[Entry, int] | None:
        """The entry that shares the most with `tokens`, and how many tokens of it to use. It counts as used."""
        found = self.peek(tokens)
        if found is not None:
            self._touch(found[0])
        return found

    def peek(self, tokens: Tokens) -> tuple[Entry, int] | None:
        """`find` for those who only want to know."""
        node, at, whole = self._root, 0, None
        while at < len(tokens) and (child := node.children.get(int(tokens[at]))) is not None:
            shared = common(child.label, tokens[at:])
            at += shared
            if shared < len(child.label):
                node = child
                break
            node = child
            if node.entry is not None:
                whole = node.entry
        if at == 0:
            return None
        if not self._cut:
            return (whole, whole.length) if whole is not None else None
        below = self._any_entry(node)
        return below, min(at, below.length)

    def insert(self, tokens: Tokens, caches: list[Any], nbytes: int) -> Entry | None:
        """Keep caches that hold exactly these tokens. None if they are not kept: they alone exceed the budget, or a leased
        entry or (where caches can be cut) a longer one serves as well. What the new entry makes useless goes."""
        if nbytes > self._budget:
            return None
        node = self._node_at(tokens)
        if (self._cut and node.children) or (node.entry is not None and node.entry.leased):
            self._prune(node)
            return None
        above = node if self._cut else None
        while above is not None:
            if above.entry is not None and not above.entry.leased:
                self._forget(above.entry)
            above = above.parent
        if node.entry is not None:
            self._forget(node.entry)
        entry = node.entry = Entry(caches, len(tokens), nbytes, node)
        self._entries[id(entry)] = entry
        self._held += nbytes
        self._evict()
        return entry

    def lease(self, entry: Entry, tokens: Tokens) -> None:
        """A row goes on in this entry's caches after these tokens, a prefix of the entry's."""
        self._held -= entry.nbytes
        entry.leased = True
        if len(tokens) != entry.length:
            old = entry.node
            old.entry = None
            entry.node, entry.length = self._node_at(tokens), len(tokens)
            if entry.node.entry is not None:
                self._forget(entry.node.entry)
            entry.node.entry = entry
            self._prune(old)

    def release(self, entry: Entry) -> None:
        """The row is through with the caches, or has copied them: the entry counts again."""
        if entry.leased and id(entry) in self._entries:
            entry.leased = False
            self._held += entry.nbytes
            self._evict()

    def remove(self, entry: Entry) -> None:
        if id(entry) in self._entries:
            self._forget(entry)
            self._prune(entry.node)

    def evict(self, keep: Entry | None = None) -> bool:
        """Drop the least recently used entry that is neither leased nor `keep`, at once: nothing else gets it. False if there is
        none."""
        for entry in self._entries.values():
            if not entry.leased and entry is not keep:
                self.remove(entry)
                return True
        return False

    def clear(self) -> None:
        """Drop all that is not leased."""
        for entry in [entry for entry in self._entries.values() if not entry.leased]:
            self.remove(entry)

    def unleased(self) -> list[tuple[Tokens, Entry]]:
        """All that no row uses, the most recently used first."""
        return [(_path(entry.node), entry) for entry in reversed(self._entries.values()) if not entry.leased]

    def _evict(self) -> None:
        for entry in list(self._entries.values()):
            if self._held <= self._budget:
                return
            if not entry.leased:
                if self._evicted is not None:
                    self._evicted(_path(entry.node), entry)
                self.remove(entry)

    def _touch(self, entry: Entry) -> None:
        self._entries.move_to_end(id(entry))

    def _forget(self, entry: Entry) -> None:
        del self._entries[id(entry)]
        entry.node.entry = None
        if not entry.leased:
            self._held -= entry.nbytes

    def _any_entry(self, node: _Node) -> Entry:
        while node.entry is None:
            node = next(iter(node.children.values()))
        return node.entry

    def _node_at(self, tokens: Tokens) -> _Node:
        """The node where these tokens end, made if need be."""
        node, at = self._root, 0
        while at < len(tokens):
            child = node.children.get(int(tokens[at]))
            if child is None:
                child = node.children[int(tokens[at])] = _Node(tokens[at:].copy(), node)
                return child
            shared = common(child.label, tokens[at:])
            if shared < len(child.label):
                child = self._split(child, shared)
            node, at = child, at + shared
        return node

    def _split(self, node: _Node, at: int) -> _Node:
        """A new node between `node` and its parent, `at` tokens down the edge."""
        upper = _Node(node.label[:at].copy(), node.parent, {int(node.label[at]): node})
        if node.parent is not None:
            node.parent.children[int(upper.label[0])] = upper
        node.label, node.parent = node.label[at:].copy(), upper
        return upper

    def _prune(self, node: _Node) -> None:
        """Remove a node that leads nowhere, and join one that only passes on with its child."""
        while node.parent is not None and node.entry is None and not node.children:
            parent = node.parent
            del parent.children[int(node.label[0])]
            node = parent
        if node.parent is not None and node.entry is None and len(node.children) == 1:
            (child,) = node.children.values()
            child.label, child.parent = np.concatenate([node.label, child.label]), node.parent
            node.parent.children[int(child.label[0])] = child


def _path(node: _Node) -> Tokens:
    """The tokens from the root to a node."""
    labels = []
    while node.parent is not None:
        labels.append(node.label)
        node = node.parent
    return np.concatenate(labels[::-1]) if labels else node.label


def common(a: Tokens, b: Tokens) -> int:
    """How many tokens two runs share at their start."""
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if len(different) else n
