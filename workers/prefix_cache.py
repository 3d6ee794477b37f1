"""What full blocks hold, and which of them are kept for the next request with the same beginning.

A *content* is a block's tokens after everything before them, named by a chained hash. The chain's root names who may share:
the KV layout's fingerprint and the tenant's salt. Equal contents are one object, compared by tokens and by parent when they
are met, so two prefixes with colliding hashes are never taken for each other.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass
from hashlib import blake2b
from weakref import WeakValueDictionary

from shared.types import BlockId

KEY_BYTES = 16


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Content:
    """A full block's tokens (int32, little endian) behind those of `parent`; the root has none, and its facts as `tokens`."""

    parent: Content | None
    tokens: bytes
    key: bytes

    @property
    def is_root(self) -> bool:
        return self.parent is None


def block_key(parent: bytes, tokens: bytes) -> bytes:
    """The content hash of a full block: of its tokens and, through `parent`, of every token before them."""
    return blake2b(parent + tokens, digest_size=KEY_BYTES).digest()


class Contents:
    """Every content that somebody still refers to, by its key."""

    def __init__(self) -> None:
        self._by_key: WeakValueDictionary[bytes, Content] = WeakValueDictionary()

    def root(self, fingerprint: bytes, salt: str) -> Content:
        """Where the prefixes of one tenant under one KV layout begin. Raises `AssertionError` if two tenants' hashes collide."""
        facts = len(fingerprint).to_bytes(4, "little") + fingerprint + salt.encode("utf-8", "surrogatepass")
        root = self._intern(None, facts, block_key(b"", facts))
        assert root is not None, "two tenants' prefixes have one hash"
        return root

    def known(self, parent: Content, tokens: bytes) -> Content | None:
        """The content of `tokens` after `parent`, if anybody has it: by hash, and by comparison."""
        found = self._by_key.get(block_key(parent.key, tokens))
        return found if found is not None and found.parent is parent and found.tokens == tokens else None

    def name(self, parent: Content, tokens: bytes) -> Content | None:
        """The content of `tokens` after `parent`; None if another one has its hash, so that it cannot be named now."""
        return self._intern(parent, tokens, block_key(parent.key, tokens))

    def _intern(self, parent: Content | None, tokens: bytes, key: bytes) -> Content | None:
        found = self._by_key.get(key)
        if found is None:
            found = self._by_key[key] = Content(parent, tokens, key)
        return found if found.parent is parent and found.tokens == tokens else None


class PrefixCache:
    """Which block serves a content, and the least recently used order of those that nobody refers to.

    A *cached* block's parent content always has a block too, because a block goes only when no cached one follows it.
    """

    def __init__(self) -> None:
        self._holder: dict[Content, BlockId] = {}
        self._cached: dict[BlockId, tuple[int, Content]] = {}
        """Blocks nobody refers to: when they were last used, and what they hold."""
        self._followers: Counter[Content] = Counter()
        """Cached blocks whose parent this is."""
        self._leaves: list[tuple[int, BlockId]] = []
        """A heap of the cached blocks that none follows, oldest use first; entries that no longer hold are skipped."""
        self._uses = 0

    def __len__(self) -> int:
        return len(self._cached)

    def __contains__(self, number: object) -> bool:
        return number in self._cached

    def holder(self, content: Content) -> BlockId | None:
        return self._holder.get(content)

    def add(self, content: Content, number: BlockId) -> None:
        """A block that somebody holds has this content; another one may serve it already."""
        self._holder.setdefault(content, number)

    def keep(self, content: Content, number: BlockId) -> bool:
        """Nobody refers to the block any more; False if another one serves the content, or if what comes before it has gone."""
        if self._holder.setdefault(content, number) != number:
            self._touch(self._holder[content])
            return False
        parent = content.parent
        if parent is not None and not parent.is_root and parent not in self._holder:
            del self._holder[content]
            return False
        if parent is not None:
            self._followers[parent] += 1
        self._use(number, content)
        return True

    def reuse(self, number: BlockId) -> None:
        """Somebody refers to it again; it goes on serving its content."""
        _, content = self._cached.pop(number)
        self._unfollow(content)

    def evict(self) -> BlockId:
        """The least recently used block that no cached one follows; its content is gone."""
        while True:
            used, number = heapq.heappop(self._leaves)
            if self._is_leaf(number, used):
                break
        _, content = self._cached.pop(number)
        del self._holder[content]
        self._unfollow(content)
        return number

    def forget(self, content: Content, number: BlockId) -> bool:
        """A held block serves its content no more. False if cached ones follow it, which would then be out of reach."""
        if self._holder.get(content) != number:
            return True
        if self._followers[content]:
            return False
        del self._holder[content]
        return True

    # -- the order

    def _touch(self, number: BlockId) -> None:
        if number in self._cached:
            self._use(number, self._cached[number][1])

    def _use(self, number: BlockId, content: Content) -> None:
        self._uses += 1
        self._cached[number] = (self._uses, content)
        self._note_leaf(number)

    def _note_leaf(self, number: BlockId) -> None:
        used, content = self._cached[number]
        if not self._followers[content]:
            heapq.heappush(self._leaves, (used, number))
        if len(self._leaves) > 2 * len(self._cached) + 64:
            self._leaves = sorted({leaf for leaf in self._leaves if self._is_leaf(leaf[1], leaf[0])})

    def _is_leaf(self, number: BlockId, used: int) -> bool:
        cached = self._cached.get(number)
        return cached is not None and cached[0] == used and not self._followers[cached[1]]

    def _unfollow(self, content: Content) -> None:
        parent = content.parent
        assert parent is not None, "a root is in no block"
        self._followers[parent] -= 1
        if not self._followers[parent]:
            del self._followers[parent]
            holder = self._holder.get(parent)
            if holder is not None and holder in self._cached:
                self._note_leaf(holder)

    # -- the books

    def check(self) -> None:
        """Every cached block serves its content, behind one that has a block. Raises `AssertionError`."""
        followers = Counter(content.parent for _, content in self._cached.values())
        leaves = set(self._leaves)
        if followers != self._followers:
            raise AssertionError(f"followers of cached blocks: {followers} counted, {self._followers} booked")
        for number, (used, content) in self._cached.items():
            parent = content.parent
            if self._holder.get(content) != number:
                raise AssertionError(f"block {number} is cached and yet not found by its content")
            if parent is None or not (parent.is_root or parent in self._holder):
                raise AssertionError(f"block {number} is cached, and what comes before it is gone")
            if not self._followers[content] and (used, number) not in leaves:
                raise AssertionError(f"block {number} is cached and can never be evicted")

    def __repr__(self) -> str:
        return f"<PrefixCache cached {len(self._cached)} | contents {len(self._holder)}>"
