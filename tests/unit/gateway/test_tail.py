"""A client's place in a log: bounded, gapless, without doubles."""

from __future__ import annotations

import asyncio

import pytest

from gateway import tail as tail_module
from gateway.fold import shortened
from gateway.tail import Entries, Following, Tail
from shared.entry_ids import START, order
from shared.errors import FabricUnavailable
from shared.fabric import LoggedEntry
from shared.messages import LogEnd, LogEntry, LogTokens
from shared.types import Phase, RequestId

RID = RequestId("r1")


def entry(index: int) -> LoggedEntry:
    return LoggedEntry(f"7-{index + 1}", LogTokens(0, index, (index,), str(index)))


class FakeLog:
    def __init__(self, count: int = 0) -> None:
        self.entries = [entry(index) for index in range(count)]
        self.reads = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def read(self, request_id: RequestId, after: str, count: int) -> Entries:
        self.reads += 1
        seen = tuple(logged for logged in self.entries if order(logged.entry_id) > order(after))[:count]
        await self.gate.wait()
        return seen


def indices(entries: tuple[LogEntry, ...]) -> list[int]:
    return [one.index for one in entries if isinstance(one, LogTokens)]


async def test_news_are_handed_over_once_and_in_order() -> None:
    following = Following(FakeLog().read, RID, behind=False, capacity=8)
    following.push((entry(0), entry(1)))
    following.push((entry(2),))
    assert indices(await following.next(1.0)) == [0, 1, 2]
    assert await following.next(0.0) == ()


async def test_silence_gives_an_empty_batch_after_the_timeout() -> None:
    assert await Following(FakeLog().read, RID, behind=False, capacity=8).next(0.001) == ()


async def test_a_late_comer_reads_what_came_before() -> None:
    log = FakeLog(3)
    following = Following(log.read, RID, behind=True, capacity=8)
    assert indices(await following.next(1.0)) == [0, 1, 2]
    following.push((entry(3),))
    assert indices(await following.next(1.0)) == [3]
    assert log.reads == 1


async def test_news_during_the_catch_up_are_neither_lost_nor_doubled() -> None:
    log = FakeLog(3)
    log.gate.clear()
    following = Following(log.read, RID, behind=True, capacity=8)
    reading = asyncio.create_task(following.next(5.0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    following.push((entry(2), entry(3)))
    log.gate.set()
    assert indices(await reading) == [0, 1, 2, 3]


async def test_a_slow_client_costs_a_bounded_buffer_and_reads_the_rest_later() -> None:
    log = FakeLog(100)
    following = Following(log.read, RID, behind=False, capacity=8)
    for one in log.entries:
        following.push((one,))
    assert following.drops == 1
    seen: list[int] = []
    while len(seen) < 100:
        page = indices(await following.next(1.0))
        assert len(page) <= 8
        seen += page
    assert seen == list(range(100))
    assert log.reads == 13
    following.push((entry(100),))
    assert indices(await following.next(1.0)) == [100]


async def test_a_failed_catch_up_is_tried_again() -> None:
    log = FakeLog(2)
    failures = iter([RuntimeError("away")])

    async def read(request_id: RequestId, after: str, count: int) -> Entries:
        for failure in failures:
            raise failure
        return await log.read(request_id, after, count)

    following = Following(read, RID, behind=True, capacity=8)
    with pytest.raises(RuntimeError):
        await following.next(1.0)
    assert indices(await following.next(1.0)) == [0, 1]


async def test_a_server_that_is_away_is_silence_and_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail_module, "RETRY_S", 0.001)
    log = FakeLog(2)
    failures = iter([FabricUnavailable("away")] * 3)

    async def read(request_id: RequestId, after: str, count: int) -> Entries:
        for failure in failures:
            raise failure
        return await log.read(request_id, after, count)

    following = Following(read, RID, behind=True, capacity=8)
    assert await following.next(0.0) == ()
    following.push((entry(1),))
    assert indices(await following.next(5.0)) == [0, 1]


async def test_news_that_a_read_has_given_already_are_not_given_twice() -> None:
    log = FakeLog(3)
    following = Following(log.read, RID, behind=True, capacity=8)
    assert indices(await following.next(1.0)) == [0, 1, 2]
    following.push((entry(1), entry(2)))
    assert await following.next(0.0) == ()
    following.push((entry(2), entry(3)))
    assert indices(await following.next(1.0)) == [3]
    following.push((entry(4),))
    assert indices(await following.next(1.0)) == [4]


async def test_a_failure_comes_after_what_was_still_buffered() -> None:
    following = Following(FakeLog().read, RID, behind=False, capacity=8)
    following.push((entry(0),))
    following.fail(shortened(RID))
    assert indices(await following.next(1.0)) == [0]
    with pytest.raises(type(shortened(RID))):
        await following.next(1.0)


def test_a_tail_drops_what_it_has_read_before() -> None:
    class Ear:
        def __init__(self) -> None:
            self.heard: list[str] = []

        def push(self, entries: Entries) -> None:
            self.heard += [logged.entry_id for logged in entries]

        def fail(self, error: Exception) -> None:
            raise AssertionError(error)

    ear = Ear()
    tail = Tail(RID, 0.0, [ear])
    tail.deliver((entry(0), entry(1)), 1.0)
    tail.deliver((entry(1), entry(2)), 2.0)
    assert (ear.heard, tail.count, tail.position, tail.heard) == (["7-1", "7-2", "7-3"], 3, "7-3", 2.0)
    tail.deliver((LoggedEntry("9-0", LogEnd(Phase.FINISHED)),), 3.0)
    assert tail.ended


def test_entry_ids_compare_as_numbers() -> None:
    assert order("9-10") > order("9-9") > order(START)
    assert order("10-0") > order("9-99")
