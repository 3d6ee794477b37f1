"""KV blocks: who holds each one, what is in it, and when it may be handed out again.

A block is *free* when nobody refers to it and nothing can still write or read it; *cached* when that is so and a request with
the same beginning would find it; *in flight* while a transfer (source or destination) is outstanding, or when it was let go
while a launched step still writes it; *offered* when it is part of a head start that may be pulled; else *held*.
`free + cached + held + offered + in_flight = all`, always: `check()`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from shared.types import BlockId
from workers.free_runs import FreeRuns
from workers.prefix_cache import Content, Contents, PrefixCache


class BlockState(Enum):
    FREE = "free"
    CACHED = "cached"
    HELD = "held"
    OFFERED = "offered"
    IN_FLIGHT = "in_flight"


@dataclass(frozen=True, slots=True)
class BlockCounts:
    free: int
    cached: int
    held: int
    offered: int
    in_flight: int

    @property
    def total(self) -> int:
        return self.free + self.cached + self.held + self.offered + self.in_flight


@dataclass(slots=True)
class Block:
    refs: int = 0
    """Sequences whose table names it."""
    writes: int = 0
    """Launched steps that write it."""
    transfers: int = 0
    """Outstanding sends and pulls that touch it."""
    offers: int = 0
    """Head starts that may be pulled and whose table names it."""
    content: Content | None = None
    """Of a full block that is never written again."""

    @property
    def state(self) -> BlockState:
        if self.transfers or (self.writes and not self.refs):
            return BlockState.IN_FLIGHT
        if not self.refs:
            return BlockState.CACHED if self.content else BlockState.FREE
        return BlockState.OFFERED if self.offers else BlockState.HELD


class BlockManager:
    """Refcounted blocks under chained content hashes, handed out in runs where possible."""

    def __init__(self, total_blocks: int, block_tokens: int) -> None:
        self.total_blocks = total_blocks
        self.block_tokens = block_tokens
        self.free_blocks = total_blocks
        """Blocks that can be handed out now: those that are cached are taken when the empty ones are used up."""
        self.pending_blocks = 0
        """Let go, but still written by a launched step: free as soon as it is collected."""
        self._blocks = [Block() for _ in range(total_blocks)]
        self._free = FreeRuns(total_blocks)
        """Empty ones."""
        self._contents = Contents()
        self._cache = PrefixCache()

    def blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.block_tokens)

    # -- handing out

    def allocate(self, count: int, after: BlockId | None = None) -> tuple[BlockId, ...]:
        """`count` free blocks, one reference each, following `after` if they can. Raises `ValueError` if there are too few."""
        if count > self.free_blocks:
            raise ValueError(f"{count} blocks wanted of {self!r}")
        self._evict(count - (self.free_blocks - len(self._cache)))
        taken = self._extend(after, count) if after is not None else []
        while len(taken) < count:
            taken += self._take_run(count - len(taken))
        return tuple(taken)

    def _evict(self, count: int) -> None:
        """Cached blocks become empty ones, least recently used first."""
        for _ in range(count):
            number = self._cache.evict()
            self._blocks[number].content = None
            self._free.give(number)

    def _extend(self, after: BlockId, count: int) -> list[BlockId]:
        start = after + 1
        return self._take(start, min(count, self._free.run_at(start) - start), start)

    def _take_run(self, count: int) -> list[BlockId]:
        """Up to `count` blocks of the longest free run: from its middle if that leaves both its neighbours room to grow."""
        run, stop = self._free.longest()
        middle = (run + stop) // 2
        start = middle if run > 0 and stop - middle >= count else run
        return self._take(start, min(count, stop - start), run)

    def _take(self, start: int, count: int, run: int) -> list[BlockId]:
        if not count:
            return []
        self._free.take(start, count, run)
        self.free_blocks -= count
        for number in range(start, start + count):
            self._blocks[number].refs = 1
        return [BlockId(number) for number in range(start, start + count)]

    # -- references

    def share(self, blocks: Iterable[BlockId]) -> None:
        """One more sequence refers to these: held by others, or cached."""
        for number in blocks:
            block = self._blocks[number]
            if number in self._cache:
                self._cache.reuse(number)
                self.free_blocks -= 1
            elif not block.refs and not block.content:
                raise AssertionError(f"block {number} is shared by nobody and holds nothing")
            block.refs += 1

    def release(self, blocks: Iterable[BlockId]) -> None:
        """One sequence less. The last reference makes a block cached or free once no operation touches it."""
        for number in blocks:
            block = self._blocks[number]
            if block.refs < 1:
                raise AssertionError(f"block {number} is released by somebody who does not hold it")
            block.refs -= 1
            if not block.refs:
                self.pending_blocks += bool(block.writes and not block.transfers)
                self._settle(number)

    def offer(self, blocks: Iterable[BlockId]) -> None:
        """One more head start that names these may be pulled."""
        for number in blocks:
            self._blocks[number].offers += 1

    def withdraw(self, blocks: Iterable[BlockId]) -> None:
        """One head start less: released, dropped, or become its worker's own request."""
        for number in blocks:
            self._blocks[number].offers -= 1

    def unshared(self, blocks: Iterable[BlockId]) -> int:
        """How many of these one release would give back."""
        return sum(1 for number in blocks if self._blocks[number].refs == 1)

    # -- operations

    def begin_write(self, blocks: Iterable[BlockId]) -> None:
        """Only what nobody else reads is written."""
        for number in blocks:
            block = self._blocks[number]
            if block.refs > 1 or block.content:
                raise AssertionError(f"block {number} is shared or full, and to be written")
            block.writes += 1

    def end_write(self, blocks: Iterable[BlockId]) -> None:
        for number in blocks:
            block = self._blocks[number]
            block.writes -= 1
            if block.refs:
                continue
            if not block.writes and not block.transfers:
                self.pending_blocks -= 1
            self._settle(number)

    def begin_transfer(self, blocks: Iterable[BlockId]) -> None:
        for number in blocks:
            self._blocks[number].transfers += 1

    def end_transfer(self, blocks: Iterable[BlockId]) -> None:
        for number in blocks:
            block = self._blocks[number]
            block.transfers -= 1
            self.pending_blocks += bool(block.writes and not block.refs and not block.transfers)
            self._settle(number)

    def _settle(self, number: BlockId) -> None:
        """A block nobody refers to and nothing touches is cached, or free if it holds nothing that another one does not."""
        block = self._blocks[number]
        if block.refs or block.writes or block.transfers:
            return
        self.free_blocks += 1
        if block.content is None or not self._cache.keep(block.content, number):
            block.content = None
            self._free.give(number)

    # -- contents

    @property
    def cached_blocks(self) -> int:
        return len(self._cache)

    def root(self, fingerprint: bytes, salt: str) -> Content:
        """Where a tenant's prefixes begin: they are found under an equal root alone."""
        return self._contents.root(fingerprint, salt)

    def known(self, parent: Content, tokens: bytes) -> Content | None:
        """What a full block of `tokens` after `parent` holds, if there may be one. Tokens are `int32`."""
        return self._contents.known(parent, tokens)

    def name(self, parent: Content, tokens: bytes) -> Content | None:
        """What a full block of `tokens` after `parent` holds; None if its hash collides with another's."""
        return self._contents.name(parent, tokens)

    def seal(self, number: BlockId, content: Content) -> None:
        """A held block is full and computed: it is never written again, and found by its content from now on."""
        self._blocks[number].content = content
        self._cache.add(content, number)

    def find(self, content: Content) -> BlockId | None:
        """A block with this content, held or cached. `share` it before anything else is allocated."""
        return self._cache.holder(content)

    def is_cached(self, number: BlockId) -> bool:
        """Nobody refers to it: whoever shares it takes it from what can be handed out."""
        return number in self._cache

    def distrust(self, blocks: Iterable[BlockId]) -> None:
        """What only its holder uses is not to be found any more."""
        for number in reversed(list(blocks)):
            block = self._blocks[number]
            if block.content and block.refs == 1 and self._cache.forget(block.content, number):
                block.content = None

    # -- the books

    def state(self, number: BlockId) -> BlockState:
        return self._blocks[number].state

    def counts(self) -> BlockCounts:
        states = [block.state for block in self._blocks]
        return BlockCounts(*(states.count(state) for state in BlockState))

    def check(
        self,
        tables: Iterable[Sequence[BlockId]],
        writes: Iterable[BlockId],
        transfers: Iterable[BlockId],
        offers: Iterable[BlockId] = (),
    ) -> None:
        """Every reference and operation is one that somebody knows of, and the states add up. Raises `AssertionError`."""
        _expect("references", [block.refs for block in self._blocks], (number for table in tables for number in table))
        _expect("writes", [block.writes for block in self._blocks], writes)
        _expect("transfers", [block.transfers for block in self._blocks], transfers)
        _expect("offers", [block.offers for block in self._blocks], offers)
        self._cache.check()
        counts = self.counts()
        believed = (len(self._free), len(self._cache), self.free_blocks)
        if (counts.free, counts.cached, counts.free + counts.cached) != believed or counts.total != self.total_blocks:
            raise AssertionError(f"blocks leaked: {counts} of {self.total_blocks}, (free, cached, both) believed {believed}")
        pending = sum(1 for block in self._blocks if block.writes and not block.refs and not block.transfers)
        if pending != self.pending_blocks:
            raise AssertionError(f"{self.pending_blocks} blocks believed pending, {pending} are")

    def __repr__(self) -> str:
        return (
            f"<BlockManager free {self.free_blocks} (cached {self.cached_blocks}) | pending {self.pending_blocks}"
            f" of {self.total_blocks} x {self.block_tokens} tokens>"
        )


def _expect(what: str, booked: list[int], known: Iterable[BlockId]) -> None:
    counted = [0] * len(booked)
    for number in known:
        counted[number] += 1
    if booked != counted:
        wrong = {number: pair for number, pair in enumerate(zip(booked, counted, strict=True)) if pair[0] != pair[1]}
        raise AssertionError(f"block {what} (booked, known) differ: {wrong}")
