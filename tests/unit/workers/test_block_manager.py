"""Blocks: one state each, handed out only when nothing refers to them and nothing touches them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.types import BlockId
from workers.block_manager import BlockCounts, BlockManager, BlockState


def test_each_state_is_counted_once() -> None:
    blocks = BlockManager(8, 4)
    held, offered, sent, _ = (blocks.allocate(1) for _ in range(4))
    blocks.offer(offered + sent)
    blocks.begin_transfer(sent)
    assert blocks.counts() == BlockCounts(free=4, cached=0, held=2, offered=1, in_flight=1)
    assert [blocks.state(number) for number in held + offered + sent] == [BlockState.HELD, BlockState.OFFERED, BlockState.IN_FLIGHT]


def test_a_released_block_with_an_operation_outstanding_stays_in_flight() -> None:
    blocks = BlockManager(2, 4)
    taken = blocks.allocate(2)
    blocks.begin_transfer(taken)
    blocks.release(taken)
    assert (blocks.free_blocks, blocks.counts().in_flight) == (0, 2)
    blocks.end_transfer(taken[:1])
    assert (blocks.free_blocks, blocks.counts().in_flight) == (1, 1)


def test_a_block_that_a_launched_step_still_writes_is_pending_not_free() -> None:
    blocks = BlockManager(2, 4)
    taken = blocks.allocate(2)
    blocks.begin_write(taken)
    blocks.begin_write(taken[:1])
    blocks.release(taken)
    blocks.end_write(taken)
    assert (blocks.free_blocks, blocks.pending_blocks) == (1, 1)
    blocks.end_write(taken[:1])
    assert (blocks.free_blocks, blocks.pending_blocks) == (2, 0)


def test_a_shared_block_is_free_only_after_its_last_reference() -> None:
    blocks = BlockManager(1, 4)
    taken = blocks.allocate(1)
    blocks.share(taken)
    blocks.release(taken)
    assert blocks.free_blocks == 0
    blocks.release(taken)
    assert blocks.free_blocks == 1


def test_releasing_what_nobody_holds_is_a_bug_that_is_named() -> None:
    with pytest.raises(AssertionError, match="does not hold"):
        BlockManager(1, 4).release([BlockId(0)])


def test_too_few_blocks_hand_out_none() -> None:
    blocks = BlockManager(3, 4)
    with pytest.raises(ValueError, match="4 blocks wanted"):
        blocks.allocate(4)
    assert blocks.free_blocks == 3


def test_a_sequence_grows_in_place_and_a_new_one_leaves_it_room() -> None:
    blocks = BlockManager(100, 4)
    first = blocks.allocate(10)
    second = blocks.allocate(10)
    grown = blocks.allocate(20, after=first[-1])
    assert list(first + grown) == list(range(30))
    assert list(second) == list(range(second[0], second[0] + 10))


def test_scattered_blocks_are_handed_out_when_no_run_is_long_enough() -> None:
    blocks = BlockManager(9, 4)
    taken = blocks.allocate(9)
    blocks.release(taken[::2])
    assert sorted(blocks.allocate(5)) == [0, 2, 4, 6, 8]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 6)), max_size=60))
def test_whatever_is_done_the_books_balance(calls: list[tuple[int, int]]) -> None:
    blocks = BlockManager(24, 4)
    tables: list[tuple[BlockId, ...]] = []
    writes: list[tuple[BlockId, ...]] = []
    transfers: list[tuple[BlockId, ...]] = []
    for what, count in calls:
        _do(blocks, what, count, tables, writes, transfers)
        blocks.check(tables, [number for each in writes for number in each], [number for each in transfers for number in each])
    for ended in (writes, transfers, tables):
        for each in ended:
            {id(writes): blocks.end_write, id(transfers): blocks.end_transfer, id(tables): blocks.release}[id(ended)](each)
    assert blocks.free_blocks == 24


def _do(
    blocks: BlockManager,
    what: int,
    count: int,
    tables: list[tuple[BlockId, ...]],
    writes: list[tuple[BlockId, ...]],
    transfers: list[tuple[BlockId, ...]],
) -> None:
    if what == 0 and blocks.free_blocks >= count:
        after = tables[-1][-1] if tables and count % 2 else None
        tables.append(blocks.allocate(count, after))
    elif what == 1 and tables:
        blocks.release(tables.pop(count % len(tables)))
    elif what == 2 and tables:
        writes.append(_unshared(tables[count % len(tables)], tables))
        blocks.begin_write(writes[-1])
    elif what == 3 and writes:
        blocks.end_write(writes.pop(count % len(writes)))
    elif what == 4 and tables:
        transfers.append(tables[count % len(tables)])
        blocks.begin_transfer(transfers[-1])
    elif what == 5 and transfers:
        blocks.end_transfer(transfers.pop(count % len(transfers)))
    elif what == 6 and tables:
        tables.append(tables[count % len(tables)])
        blocks.share(tables[-1])


def _unshared(table: tuple[BlockId, ...], tables: list[tuple[BlockId, ...]]) -> tuple[BlockId, ...]:
    """What is shared is never written."""
    return tuple(number for number in table if sum(other.count(number) for other in tables) == 1)
