"""KV blocks: who holds each one, what is in it, and when it may be handed out again.

A block is *free* when nobody refers to it and nothing can still write or read it; *in flight* while a transfer (source or
destination) is outstanding, or when it was let go while a launched step still writes it; *offered* when it is part of a head
start that may be pulled; else *held*. `free + held + offered + in_flight = all`, always: `check()`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from shared.types import BlockId
from workers.engine import Int32

ROOT_KEY = b""
"""Parent of a sequence's first block."""


class BlockState(Enum):
    FREE = "free"
    HELD = "held"
    OFFERED = "offered"
    IN_FLIGHT = "in_flight"


@dataclass(frozen=True, slots=True)
class BlockCounts:
    free: int
    held: int
    offered: int
    in_flight: int

    @property
    def total(self) -> int:
        return self.free + self.held + self.offered + self.in_flight


@dataclass(slots=True)
class Block:
    refs: int = 0
    """Sequences whose table names it."""
    writes: int = 0
    """Launched steps that write it."""
    transfers: int = 0
    """Outstanding sends and pulls that touch it."""
    offered: bool = False
    key: bytes = ROOT_KEY
    tokens: bytes = b""

    @property
    def state(self) -> BlockState:
        if self.transfers or (self.writes and not self.refs):
            return BlockState.IN_FLIGHT
        if not self.refs:
            return BlockState.FREE
        return BlockState.OFFERED if self.offered else BlockState.HELD


def block_key(parent: bytes, tokens: bytes) -> bytes:
    """The content hash of a full block: of its tokens and, through `parent`, of every token before them."""
    return blake2b(parent + tokens, digest_size=16).digest()


class BlockManager:
    """Refcounted blocks under chained content hashes, handed out in runs where possible."""

    def __init__(self, total_blocks: int, block_tokens: int) -> None:
        self.total_blocks = total_blocks
        self.block_tokens = block_tokens
        self.free_blocks = total_blocks
        self.pending_blocks = 0
        """Let go, but still written by a launched step: free as soon as it is collected."""
        self._blocks = [Block() for _ in range(total_blocks)]
        self._free: npt.NDArray[np.bool_] = np.ones(total_blocks, dtype=np.bool_)
        self._by_key: dict[bytes, BlockId] = {}

    def blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.block_tokens)

    # -- handing out

    def allocate(self, count: int, after: BlockId | None = None) -> tuple[BlockId, ...]:
        """`count` free blocks, one reference each, following `after` if they can. Raises `ValueError` if there are too few."""
        if count > self.free_blocks:
            raise ValueError(f"{count} blocks wanted of {self!r}")
        taken = self._extend(after, count) if after is not None else []
        while len(taken) < count:
            taken += self._take_run(count - len(taken))
        return tuple(taken)

    def _extend(self, after: BlockId, count: int) -> list[BlockId]:
        stop = after + 1
        while stop < self.total_blocks and stop - after <= count and self._free[stop]:
            stop += 1
        return self._take(range(after + 1, stop))

    def _take_run(self, count: int) -> list[BlockId]:
        """Up to `count` blocks of the longest free run: from its middle if that leaves both its neighbours room to grow."""
        start, stop = self._longest_run()
        middle = (start + stop) // 2
        if start > 0 and stop - middle >= count:
            start = middle
        return self._take(range(start, min(stop, start + count)))

    def _longest_run(self) -> tuple[int, int]:
        edges = np.flatnonzero(np.diff(self._free.astype(np.int8), prepend=0, append=0))
        longest = int(np.argmax(edges[1::2] - edges[0::2]))
        return int(edges[2 * longest]), int(edges[2 * longest + 1])

    def _take(self, ids: range) -> list[BlockId]:
        self._free[ids.start : ids.stop] = False
        self.free_blocks -= len(ids)
        for number in ids:
            self._forget_content(BlockId(number))
            self._blocks[number].refs = 1
        return [BlockId(number) for number in ids]

    # -- references

    def share(self, blocks: Iterable[BlockId]) -> None:
        """One more sequence refers to these."""
        for number in blocks:
            self._blocks[number].refs += 1

    def release(self, blocks: Iterable[BlockId]) -> None:
        """One sequence less. The last reference makes a block free once no operation touches it."""
        for number in blocks:
            block = self._blocks[number]
            if block.refs < 1:
                raise AssertionError(f"block {number} is released by somebody who does not hold it")
            block.refs -= 1
            if not block.refs:
                block.offered = False
                self.pending_blocks += bool(block.writes and not block.transfers)
                self._settle(number)

    def offer(self, blocks: Iterable[BlockId]) -> None:
        for number in blocks:
            self._blocks[number].offered = True

    def withdraw(self, blocks: Iterable[BlockId]) -> None:
        """A head start became its worker's own request."""
        for number in blocks:
            self._blocks[number].offered = False

    # -- operations

    def begin_write(self, blocks: Iterable[BlockId]) -> None:
        for number in blocks:
            self._blocks[number].writes += 1

    def end_write(self, blocks: Iterable[BlockId]) -> None:
        for number in blocks:
            block = self._blocks[number]
            block.writes -= 1
            if not block.writes and not block.refs and not block.transfers:
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
        """A block nobody refers to and nothing touches is free."""
        block = self._blocks[number]
        if not (block.refs or block.writes or block.transfers):
            self._free[number] = True
            self.free_blocks += 1

    # -- contents

    def seal(self, number: BlockId, parent: bytes, tokens: Int32) -> bytes:
        """Names what a full, computed block holds; returns its key, the parent of the next block's."""
        content = tokens.tobytes()
        block = self._blocks[number]
        block.key, block.tokens = block_key(parent, content), content
        self._by_key.setdefault(block.key, number)
        return block.key

    def find_prefix(self, tokens: Int32) -> tuple[BlockId, ...]:
        """Blocks that hold the longest known prefix of `tokens`, by hash and by comparison. Nobody reuses them yet."""
        found: list[BlockId] = []
        parent = ROOT_KEY
        for start in range(0, len(tokens) - self.block_tokens + 1, self.block_tokens):
            content = tokens[start : start + self.block_tokens].tobytes()
            parent = block_key(parent, content)
            number = self._by_key.get(parent)
            if number is None or self._blocks[number].tokens != content:
                break
            found.append(number)
        return tuple(found)

    def _forget_content(self, number: BlockId) -> None:
        block = self._blocks[number]
        if self._by_key.get(block.key) == number:
            del self._by_key[block.key]
        block.key, block.tokens = ROOT_KEY, b""

    # -- the books

    def state(self, number: BlockId) -> BlockState:
        return self._blocks[number].state

    def counts(self) -> BlockCounts:
        states = [block.state for block in self._blocks]
        return BlockCounts(*(states.count(state) for state in BlockState))

    def check(self, tables: Iterable[Sequence[BlockId]], writes: Iterable[BlockId], transfers: Iterable[BlockId]) -> None:
        """Every reference and operation is one that somebody knows of, and the states add up. Raises `AssertionError`."""
        _expect("references", [block.refs for block in self._blocks], (number for table in tables for number in table))
        _expect("writes", [block.writes for block in self._blocks], writes)
        _expect("transfers", [block.transfers for block in self._blocks], transfers)
        counts = self.counts()
        if (counts.free, counts.total) != (self.free_blocks, self.total_blocks) or counts.free != int(self._free.sum()):
            raise AssertionError(f"blocks leaked: {counts} of {self.total_blocks}, {self.free_blocks} believed free")
        pending = sum(1 for block in self._blocks if block.writes and not block.refs and not block.transfers)
        if pending != self.pending_blocks:
            raise AssertionError(f"{self.pending_blocks} blocks believed pending, {pending} are")

    def __repr__(self) -> str:
        return f"<BlockManager free {self.free_blocks} | pending {self.pending_blocks} of {self.total_blocks} x {self.block_tokens} tokens>"


def _expect(what: str, booked: list[int], known: Iterable[BlockId]) -> None:
    counted = [0] * len(booked)
    for number in known:
        counted[number] += 1
    if booked != counted:
        wrong = {number: pair for number, pair in enumerate(zip(booked, counted, strict=True)) if pair[0] != pair[1]}
        raise AssertionError(f"block {what} (booked, known) differ: {wrong}")
