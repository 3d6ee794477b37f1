"""Cached prefixes on the block level: found by content, shared, evicted leaf first and oldest first, never across roots."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shared.types import BlockId
from workers.block_manager import BlockCounts, BlockManager, BlockState
from workers.prefix_cache import Content, block_key

TOKENS = 2
Prompt = tuple[int, ...]


def ids(*tokens: int) -> bytes:
    return np.array(tokens, dtype=np.int32).tobytes()


def name(blocks: BlockManager, tokens: Prompt, salt: str = "") -> list[Content]:
    """The contents of the whole blocks of `tokens`."""
    parent, contents = blocks.root(b"layout", salt), list[Content]()
    for at in range(0, len(tokens) // TOKENS * TOKENS, TOKENS):
        content = blocks.name(parent, ids(*tokens[at : at + TOKENS]))
        assert content is not None
        contents.append(content)
        parent = content
    return contents


def find(blocks: BlockManager, tokens: Prompt, salt: str = "") -> tuple[BlockId, ...]:
    """As a worker looks: as far as contents are known and have a block."""
    parent, found = blocks.root(b"layout", salt), list[BlockId]()
    for at in range(0, len(tokens) // TOKENS * TOKENS, TOKENS):
        content = blocks.known(parent, ids(*tokens[at : at + TOKENS]))
        number = None if content is None else blocks.find(content)
        if content is None or number is None:
            break
        found.append(number)
        parent = content
    return tuple(found)


def fill(blocks: BlockManager, tokens: Prompt, salt: str = "") -> tuple[BlockId, ...]:
    """A sequence that computed all of its blocks itself."""
    contents = name(blocks, tokens, salt)
    table = blocks.allocate(len(contents))
    for number, content in zip(table, contents, strict=True):
        blocks.seal(number, content)
    return table


def test_full_blocks_of_an_ended_sequence_are_cached_and_found_by_the_next() -> None:
    blocks = BlockManager(4, TOKENS)
    table = fill(blocks, (1, 2, 3, 4))
    blocks.release(table)
    assert blocks.counts() == BlockCounts(free=2, cached=2, held=0, offered=0, in_flight=0)
    assert (blocks.free_blocks, blocks.cached_blocks) == (4, 2)
    assert find(blocks, (1, 2, 3, 4, 5)) == table
    assert find(blocks, (1, 2, 9, 4)) == table[:1]
    assert find(blocks, (3, 4)) == ()


def test_a_found_block_is_held_again_and_shared_with_whoever_holds_it() -> None:
    blocks = BlockManager(4, TOKENS)
    table = fill(blocks, (1, 2, 3, 4))
    blocks.share(find(blocks, (1, 2)))
    blocks.release(table)
    assert [blocks.state(number) for number in table] == [BlockState.HELD, BlockState.CACHED]
    blocks.share(find(blocks, (1, 2, 3, 4)))
    assert blocks.free_blocks == 2
    blocks.check([table, table[:1]], [], [])


def test_a_full_or_shared_block_is_never_written() -> None:
    blocks = BlockManager(4, TOKENS)
    table = fill(blocks, (1, 2))
    with pytest.raises(AssertionError, match="shared or full"):
        blocks.begin_write(table)
    growing = blocks.allocate(1)
    blocks.share(growing)
    with pytest.raises(AssertionError, match="shared or full"):
        blocks.begin_write(growing)


def test_nothing_is_shared_that_nobody_holds_and_that_holds_nothing() -> None:
    with pytest.raises(AssertionError, match="shared by nobody"):
        BlockManager(1, TOKENS).share([BlockId(0)])


def test_tenants_and_layouts_never_find_each_others_blocks() -> None:
    blocks = BlockManager(4, TOKENS)
    blocks.release(fill(blocks, (1, 2), salt="a"))
    assert find(blocks, (1, 2), salt="b") == ()
    other = blocks.known(blocks.root(b"another layout", "a"), ids(1, 2))
    assert other is None
    assert len(find(blocks, (1, 2), salt="a")) == 1


def test_what_was_used_longest_ago_goes_first_and_the_end_of_a_prefix_before_its_beginning() -> None:
    blocks = BlockManager(6, TOKENS)
    first, second = fill(blocks, (1, 2, 3, 4, 5, 6)), fill(blocks, (7, 8, 9, 10, 11, 12))
    blocks.release(first)
    blocks.release(second)
    blocks.allocate(1)
    assert (find(blocks, (1, 2, 3, 4, 5, 6)), len(find(blocks, (7, 8, 9, 10, 11, 12)))) == (first[:2], 3)
    blocks.allocate(2)
    assert find(blocks, (1, 2)) == ()
    assert len(find(blocks, (7, 8, 9, 10, 11, 12))) == 3


def test_using_a_prefix_again_makes_it_young_but_not_what_follows_it() -> None:
    blocks = BlockManager(4, TOKENS)
    table = fill(blocks, (1, 2, 3, 4))
    blocks.release(table)
    other = fill(blocks, (5, 6, 7, 8))
    blocks.release(other)
    blocks.share(table[:1])
    blocks.release(table[:1])
    blocks.allocate(1)
    assert (find(blocks, (1, 2, 3, 4)), find(blocks, (5, 6, 7, 8))) == (table[:1], other)
    blocks.allocate(1)
    assert (find(blocks, (1, 2)), find(blocks, (5, 6, 7, 8))) == (table[:1], other[:1])


def test_a_second_copy_is_free_when_its_sequence_ends_and_takes_over_if_the_first_is_gone() -> None:
    blocks = BlockManager(4, TOKENS)
    first, second = fill(blocks, (1, 2)), fill(blocks, (1, 2))
    assert find(blocks, (1, 2)) == first
    blocks.release(first)
    blocks.allocate(2)
    assert find(blocks, (1, 2)) == first
    blocks.allocate(1)
    assert find(blocks, (1, 2)) == ()
    blocks.release(second)
    assert find(blocks, (1, 2)) == second
    assert blocks.counts() == BlockCounts(free=0, cached=1, held=3, offered=0, in_flight=0)


def test_a_block_whose_beginning_is_gone_is_not_kept() -> None:
    blocks = BlockManager(4, TOKENS)
    contents = name(blocks, (1, 2, 3, 4))
    (number,) = blocks.allocate(1)
    blocks.seal(number, contents[1])
    blocks.release([number])
    assert blocks.counts().cached == 0


def test_what_is_being_sent_can_be_shared_and_is_cached_when_the_send_has_ended() -> None:
    blocks = BlockManager(2, TOKENS)
    table = fill(blocks, (1, 2))
    blocks.begin_transfer(table)
    blocks.release(table)
    assert (blocks.state(table[0]), blocks.free_blocks) == (BlockState.IN_FLIGHT, 1)
    blocks.share(find(blocks, (1, 2)))
    blocks.end_transfer(table)
    assert blocks.state(table[0]) is BlockState.HELD
    blocks.release(table)
    assert blocks.state(table[0]) is BlockState.CACHED


def test_what_is_doubted_is_not_found_and_not_kept_unless_others_use_it() -> None:
    blocks = BlockManager(4, TOKENS)
    table = fill(blocks, (1, 2, 3, 4))
    blocks.share(table[:1])
    blocks.distrust(table)
    assert find(blocks, (1, 2, 3, 4)) == table[:1]
    blocks.release(table)
    assert blocks.counts() == BlockCounts(free=3, cached=0, held=1, offered=0, in_flight=0)


def test_two_head_starts_may_offer_one_block() -> None:
    blocks = BlockManager(2, TOKENS)
    table = fill(blocks, (1, 2))
    blocks.share(table)
    blocks.offer(table)
    blocks.offer(table)
    blocks.withdraw(table)
    assert blocks.state(table[0]) is BlockState.OFFERED
    blocks.withdraw(table)
    assert blocks.state(table[0]) is BlockState.HELD
    with pytest.raises(AssertionError, match="offers"):
        blocks.check([table, table], [], [], table)


def test_keys_chain_and_are_the_same_in_every_process() -> None:
    assert block_key(b"", b"abcd").hex() == "d2c8e95841ccbc0c3cb3edc9201a6981"
    assert block_key(b"other", b"abcd") != block_key(b"", b"abcd")


def test_colliding_hashes_are_told_apart_by_tokens_and_by_what_comes_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third token is ignored by this hash, so prompts collide all the time; none is served another's block."""
    monkeypatch.setattr("workers.prefix_cache.block_key", lambda parent, tokens: (parent + bytes(t % 2 for t in tokens[::4]))[-3:])
    blocks = BlockManager(16, TOKENS)
    kept: dict[BlockId, Prompt] = {}
    for prompt in [(1, 2, 3, 4), (3, 4, 3, 4), (5, 6, 7, 8), (1, 2, 5, 6), (3, 2, 3, 4)]:
        parent: Content | None = blocks.root(b"layout", "")
        for at in range(0, len(prompt), TOKENS):
            assert parent is not None
            parent = blocks.name(parent, ids(*prompt[at : at + TOKENS]))
            if parent is None:
                break
            (number,) = blocks.allocate(1)
            blocks.seal(number, parent)
            kept[number] = prompt[: at + TOKENS]
    for prompt in [(1, 2, 3, 4), (3, 4, 3, 4), (5, 6, 7, 8), (1, 2, 5, 6), (7, 8, 3, 4)]:
        for at, number in enumerate(find(blocks, prompt)):
            assert kept[number] == prompt[: (at + 1) * TOKENS]
    assert kept


# --- against a plain model ------------------------------------------------------------------------------------------


@dataclass
class Held:
    """A sequence of the plain model: its tokens, its table, and how many of its blocks are sealed."""

    tokens: Prompt
    salt: str
    table: list[BlockId]
    sealed: int = 0
    offers: int = 0
    contents: list[Content] = field(default_factory=list)


class PlainModel(RuleBasedStateMachine):
    """Random sequences over few tokens, so that prefixes meet; `truth` says what was written into each block."""

    TOTAL = 12

    def __init__(self) -> None:
        super().__init__()
        self.blocks = BlockManager(self.TOTAL, TOKENS)
        self.truth: dict[BlockId, tuple[str, Prompt]] = {}
        """The whole prefix that each block's KV was computed from."""
        self.held: list[Held] = []
        self.writing: list[list[BlockId]] = []
        self.sending: list[list[BlockId]] = []

    @rule(tokens=st.lists(st.integers(0, 1), max_size=12), salt=st.sampled_from(["", "tenant"]))
    def begin(self, tokens: list[int], salt: str) -> None:
        prompt = tuple(tokens)
        found = find(self.blocks, prompt, salt)
        for at, number in enumerate(found):
            assert self.truth[number] == (salt, prompt[: (at + 1) * TOKENS]), "served another prefix's KV"
        self.blocks.share(found)
        contents = name(self.blocks, prompt, salt)
        self.held.append(Held(prompt, salt, list(found), len(found), contents=contents))

    @precondition(lambda self: self.held)
    @rule(pick=st.integers(0, 99), count=st.integers(1, 3))
    def grow(self, pick: int, count: int) -> None:
        """Blocks for its next tokens; more than can be handed out is refused and changes nothing."""
        one = self.held[pick % len(self.held)]
        if count > self.blocks.free_blocks:
            with pytest.raises(ValueError, match="blocks wanted"):
                self.blocks.allocate(count)
            return
        fresh = self.blocks.allocate(count, one.table[-1] if one.table else None)
        taken = {number for table in [*(other.table for other in self.held), *self.writing, *self.sending] for number in table}
        assert not taken & set(fresh), "handed out a block that somebody uses"
        for number in fresh:
            self.truth.pop(number, None)
        one.table.extend(fresh)

    @precondition(lambda self: self.held)
    @rule(pick=st.integers(0, 99))
    def compute(self, pick: int) -> None:
        """Fills and seals its next block."""
        one = self.held[pick % len(self.held)]
        if one.sealed < min(len(one.table), len(one.contents)):
            number = one.table[one.sealed]
            assert self.blocks.state(number) is not BlockState.CACHED
            self.truth[number] = (one.salt, one.tokens[: (one.sealed + 1) * TOKENS])
            self.blocks.seal(number, one.contents[one.sealed])
            one.sealed += 1

    @precondition(lambda self: self.held)
    @rule(pick=st.integers(0, 99))
    def end(self, pick: int) -> None:
        one = self.held.pop(pick % len(self.held))
        self.blocks.withdraw(one.table[: one.offers])
        self.blocks.release(one.table)

    @precondition(lambda self: self.held)
    @rule(pick=st.integers(0, 99))
    def offer(self, pick: int) -> None:
        one = self.held[pick % len(self.held)]
        self.blocks.offer(one.table[one.offers : one.sealed])
        one.offers = max(one.offers, one.sealed)

    @precondition(lambda self: self.held)
    @rule(pick=st.integers(0, 99))
    def write(self, pick: int) -> None:
        one = self.held[pick % len(self.held)]
        self.writing.append(one.table[max(one.sealed, len(one.contents)) :])
        self.blocks.begin_write(self.writing[-1])

    @precondition(lambda self: self.held)
    @rule(pick=st.integers(0, 99), start=st.integers(0, 3))
    def send(self, pick: int, start: int) -> None:
        one = self.held[pick % len(self.held)]
        self.sending.append(one.table[start : one.sealed])
        self.blocks.begin_transfer(self.sending[-1])

    @precondition(lambda self: self.writing or self.sending)
    @rule(pick=st.integers(0, 99))
    def collect(self, pick: int) -> None:
        if self.writing:
            self.blocks.end_write(self.writing.pop(pick % len(self.writing)))
        else:
            self.blocks.end_transfer(self.sending.pop(pick % len(self.sending)))

    @precondition(lambda self: self.held)
    @rule(pick=st.integers(0, 99))
    def doubt(self, pick: int) -> None:
        one = self.held[pick % len(self.held)]
        self.blocks.distrust(one.table[one.offers :])

    @invariant()
    def books_balance(self) -> None:
        flat = [number for busy in self.sending for number in busy]
        offers = [number for one in self.held for number in one.table[: one.offers]]
        self.blocks.check([one.table for one in self.held], [number for busy in self.writing for number in busy], flat, offers)

    @invariant()
    def everything_cached_can_be_had(self) -> None:
        counts = self.blocks.counts()
        assert counts.free + counts.cached == self.blocks.free_blocks
        assert counts.total == self.TOTAL

    def teardown(self) -> None:
        while self.held:
            self.end(0)
        while self.writing or self.sending:
            self.collect(0)
        self.books_balance()
        assert self.blocks.free_blocks == self.TOTAL
        assert len(self.blocks.allocate(self.TOTAL)) == self.TOTAL


TestPlainModel = PlainModel.TestCase
TestPlainModel.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 6)), min_size=1, max_size=30))
def test_the_cache_keeps_what_an_exact_lru_of_chains_would(calls: list[tuple[int, int]]) -> None:
    """One sequence at a time: the kept prefixes are those of a list that is cut at its oldest end, leaf before parent."""
    blocks, plain, size = BlockManager(8, TOKENS), list[tuple[int, int]](), 8
    for tenant, length in calls:
        tokens = tuple(range(2 * length))
        found = find(blocks, tokens, str(tenant))
        assert len(found) == sum(1 for at in range(length) if (tenant, at) in plain)
        blocks.share(found)
        mine = {(tenant, at) for at in range(length)}
        others = [one for one in plain if one not in mine]
        contents = name(blocks, tokens, str(tenant))
        table = list(found) + list(blocks.allocate(length - len(found)))
        for number, content in zip(table[len(found) :], contents[len(found) :], strict=True):
            blocks.seal(number, content)
        blocks.release(table)
        plain = _cut(others, mine, size)
    assert blocks.free_blocks == 8


def _cut(others: list[tuple[int, int]], mine: set[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """Oldest first, each tenant's blocks leaf first; what does not fit beside `mine` goes."""
    left = others[max(0, len(others) - (size - len(mine))) :]
    return left + sorted(mine, key=lambda one: -one[1])
