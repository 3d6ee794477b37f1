"""One reader for many logs: wake-ups, lost wake-ups, cuts, lost tails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from gateway.fold import LogLost
from gateway.follower import Follower
from gateway.tail import Following
from shared.errors import DecodeError
from shared.fabric import LoggedEntry, LogHead
from shared.messages import LogEnd, LogTokens, Submission
from shared.types import Phase, RequestId, RequestSpec, SamplingParams
from tests.support.gateway_server import until
from tests.support.model_fabric import ModelFabric

RID = RequestId("r1")


@asynccontextmanager
async def running(fabric: ModelFabric, *, poll_s: float = 30.0, verify_s: float = 30.0) -> AsyncIterator[Follower]:
    follower = Follower(fabric.as_fabric(), poll_s=poll_s, verify_s=verify_s, capacity=4)
    task = asyncio.create_task(follower.run())
    await until(lambda: fabric._hints)
    try:
        yield follower
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def request(fabric: ModelFabric, request_id: RequestId = RID) -> None:
    spec = RequestSpec(request_id, "m", (1,), SamplingParams(9), 0)
    await fabric.create_log(LogHead(spec, "{}", ""))
    await fabric.submit(Submission(request_id, 1, 9, 0))


async def say(fabric: ModelFabric, *indices: int, end: LogEnd | None = None, request_id: RequestId = RID) -> None:
    await fabric.append(request_id, 1, tuple(LogTokens(0, index, (index,), str(index)) for index in indices), end)
    await fabric.notify((request_id,))


async def hear(following: Following, count: int) -> list[int]:
    heard: list[int] = []
    while len(heard) < count:
        entries = await following.next(10.0)
        assert entries, "nothing came"
        heard += [entry.index for entry in entries if isinstance(entry, LogTokens)]
    return heard


async def test_a_wake_up_brings_the_news_at_once_and_one_read_serves_all_logs() -> None:
    fabric = ModelFabric()
    others = [RequestId(f"o{number}") for number in range(3)]
    for request_id in (RID, *others):
        await request(fabric, request_id)
    async with running(fabric) as follower:
        with follower.follow(RID) as following, follower.follow(others[0]), follower.follow(others[1]):
            await until(lambda: fabric.calls.count("read_logs") >= 1)
            await say(fabric, 0, 1)
            assert await hear(following, 2) == [0, 1]
            assert len(follower) == 3
        assert len(follower) == 0


async def test_a_lost_wake_up_costs_a_poll_and_no_token() -> None:
    fabric = ModelFabric()
    await request(fabric)
    async with running(fabric, poll_s=0.01) as follower:
        fabric.deaf = True
        with follower.follow(RID) as following:
            await say(fabric, 0)
            assert await hear(following, 1) == [0]


async def test_two_clients_of_one_log_share_its_tail() -> None:
    fabric = ModelFabric()
    await request(fabric)
    async with running(fabric) as follower:
        with follower.follow(RID) as early:
            await say(fabric, 0, 1)
            assert await hear(early, 2) == [0, 1]
            with follower.follow(RID) as late:
                assert len(follower) == 1
                assert await hear(late, 2) == [0, 1]
                await say(fabric, 2)
                assert (await hear(early, 1), await hear(late, 1)) == ([2], [2])


async def test_a_slow_client_gets_everything_later() -> None:
    fabric = ModelFabric()
    await request(fabric)
    async with running(fabric) as follower:
        with follower.follow(RID) as slow, follower.follow(RID) as quick:
            for index in range(20):
                await say(fabric, index)
                assert await hear(quick, 1) == [index]
            assert await hear(slow, 20) == list(range(20))
        assert follower.drops > 0


async def test_an_ended_log_is_read_no_more() -> None:
    fabric = ModelFabric()
    await request(fabric)
    async with running(fabric, poll_s=0.01) as follower:
        with follower.follow(RID) as following:
            await say(fabric, 0, end=LogEnd(Phase.FINISHED))
            assert await hear(following, 1) == [0]
            assert len(follower) == 0


async def test_a_cut_is_waited_out_and_the_log_is_verified_after_it() -> None:
    fabric = ModelFabric()
    await request(fabric)
    async with running(fabric, poll_s=0.01, verify_s=0.4) as follower:
        with follower.follow(RID) as following:
            await say(fabric, 0, 1)
            assert await hear(following, 2) == [0, 1]
            fabric.down = True
            await until(lambda: not follower.connected)
            fabric.down = False
            await until(lambda: follower.connected)
            checks = fabric.calls.count("record")
            await until(lambda: fabric.calls.count("record") > checks)
            await say(fabric, 2)
            assert await hear(following, 1) == [2]


async def test_a_log_that_came_back_shorter_fails_its_followers() -> None:
    fabric = ModelFabric()
    await request(fabric)
    async with running(fabric, verify_s=0.02) as follower:
        with follower.follow(RID) as following:
            await say(fabric, 0, 1)
            assert await hear(following, 2) == [0, 1]
            entries = fabric.model._state.logs[RID].entries
            del entries.ids[1:], entries.items[1:]
            with pytest.raises(LogLost) as caught:
                await following.next(10.0)
            assert caught.value.code == "log_shortened"


async def test_a_request_whose_record_is_gone_fails_instead_of_hanging() -> None:
    fabric = ModelFabric()
    await request(fabric)
    async with running(fabric, verify_s=0.02) as follower:
        with follower.follow(RID) as following:
            del fabric.model._state.held[RID]
            with pytest.raises(LogLost) as caught:
                await following.next(10.0)
            assert caught.value.code == "request_lost"


async def test_bytes_that_are_no_entry_end_one_stream_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    fabric = ModelFabric()
    other = RequestId("o1")
    await request(fabric)
    await request(fabric, other)

    async def read_log(request_id: RequestId, after: str = "0-0") -> tuple[LoggedEntry, ...]:
        if request_id == RID:
            raise DecodeError("from the future", b"?")
        return fabric.model.read_log(request_id, after)

    async def read_logs(after: dict[RequestId, str]) -> dict[RequestId, tuple[LoggedEntry, ...]]:
        return {request_id: await read_log(request_id, position) for request_id, position in after.items()}

    monkeypatch.setattr(fabric, "read_log", read_log, raising=False)
    monkeypatch.setattr(fabric, "read_logs", read_logs)
    async with running(fabric, poll_s=0.01) as follower:
        with follower.follow(RID) as broken, follower.follow(other) as whole:
            with pytest.raises(LogLost) as caught:
                await broken.next(10.0)
            assert caught.value.code == "log_unreadable"
            await say(fabric, 0, request_id=other)
            assert await hear(whole, 1) == [0]
