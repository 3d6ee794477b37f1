"""A list of addresses, one of them the primary's: it dies, its replica is promoted, and everybody finds the way there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from shared.addresses import addresses_of, plain_urls, without_password
from shared.connection import open_connection
from shared.durability import Durability
from shared.errors import ConfigError, FabricUnavailable
from shared.fabric import WriteStatus
from shared.fabric_settings import FabricSettings
from shared.redis_fabric import RedisFabric, connect
from shared.server import EmbeddedServer, free_port
from shared.types import PoolId
from tests.contract.words import R1, accept, tokens
from tests.support.replicas import PASSWORD, ask, kill, lone, pair, replica_of, until_followed
from tests.support.waiting import eventually

WAITING = FabricSettings(durability=Durability.parse("wait-replicas=1"), durable_wait_s=1.0)


def both(one: EmbeddedServer, other: EmbeddedServer) -> str:
    return f"{one.url},{other.url}"


async def said(fabric: RedisFabric) -> list[int]:
    """The tokens of the log; none while no primary is there."""
    try:
        return [token for one in await fabric.read_log(R1) for token in getattr(one.entry, "token_ids", ())]
    except FabricUnavailable:
        return []


async def written(fabric: RedisFabric, index: int) -> bool:
    """As the output stage does it: the same append until it is answered."""
    try:
        return await fabric.write([(R1, 1, (tokens(index, index),), None)]) == (WriteStatus.DONE,)
    except FabricUnavailable:
        return False


async def test_what_was_told_is_in_the_promoted_replica_and_all_goes_on_there() -> None:
    with pair() as (primary, replica):
        # The replica first: its address is asked and passed over.
        fabric = await connect(both(replica, primary), PoolId("p"), WAITING)
        reader = await connect(both(primary, replica), PoolId("p"), WAITING)
        try:
            await accept(fabric)
            news = _News(reader)
            async with news:
                for index in range(20):
                    assert await written(fabric, index)
                kill(primary)
                assert not await written(fabric, 20)
                ask(replica, "REPLICAOF", "NO", "ONE")
                # Promoted, and alone: nothing that only it has is told.
                assert await said(reader) == []
                with replica_of(replica) as successor:
                    until_followed(replica)
                    await eventually(lambda: written(fabric, 20))
                    assert await written(fabric, 21)
                    assert await said(reader) == list(range(22))
                    await eventually(lambda: news.after(fabric))
                    assert successor.pid
        finally:
            await fabric.disconnect()
            await reader.disconnect()


class _News:
    """Counts hints for as long as it is open."""

    def __init__(self, fabric: RedisFabric) -> None:
        self._fabric = fabric
        self._heard = asyncio.Event()

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._listen())

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _listen(self) -> None:
        async with aclosing(self._fabric.wakeups()) as news:
            async for grown in news:
                if grown:
                    self._heard.set()

    async def after(self, writer: RedisFabric) -> bool:
        """Whether a hint that is given from now on is heard: the subscription has moved, too."""
        self._heard.clear()
        await writer.notify([R1])
        await asyncio.sleep(0.01)
        return self._heard.is_set()


@pytest.fixture
async def demoted() -> AsyncIterator[tuple[RedisFabric, EmbeddedServer]]:
    """Connected to a primary that has meanwhile become the replica of its replica; and the new primary."""
    with lone() as first, replica_of(first) as second:
        until_followed(first)
        fabric = await connect(both(first, second), PoolId("p"))
        await accept(fabric)
        until_followed(first)
        ask(second, "REPLICAOF", "NO", "ONE")
        ask(first, "REPLICAOF", "127.0.0.1", second.port)
        yield fabric, second
        await fabric.disconnect()


async def test_a_primary_that_was_demoted_is_left(demoted: tuple[RedisFabric, EmbeddedServer]) -> None:
    fabric, new = demoted
    await eventually(lambda: written(fabric, 0))
    assert await said(fabric) == [0]
    assert ask(new, "DBSIZE") > 0


async def test_a_promoted_server_that_cannot_keep_the_promise_is_passed_over() -> None:
    """`fsync` was asked: a server whose disk is a second late is no primary of ours."""
    with EmbeddedServer(loopback=True, durable=True) as sure, EmbeddedServer(loopback=True) as unsure:
        fabric = await connect(f"{unsure.url},{sure.url}", PoolId("p"), FabricSettings(durability=Durability.parse("fsync")))
        await accept(fabric)
        await fabric.disconnect()
        assert (ask(sure, "DBSIZE") > 0, ask(unsure, "DBSIZE")) == (True, 0)


async def test_no_primary_anywhere_says_what_each_address_said() -> None:
    with pair() as (primary, replica):
        kill(primary)
        with pytest.raises(FabricUnavailable, match=r"none of the addresses has a primary.*it is a replica") as caught:
            await open_connection(f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0,{replica.url}")
        assert PASSWORD not in str(caught.value)


def test_a_list_is_of_one_kind_and_shows_no_password() -> None:
    url = "redis://:a%2Cb@h1:1/0, redis://u:secret@h2:2/0"
    assert addresses_of(url) == ("redis://:a%2Cb@h1:1/0", "redis://u:secret@h2:2/0")
    assert without_password(url) == "redis://h1:1/0,redis://h2:2/0"
    for bad in (
        "redis://:secret@h1/0,unix:///tmp/x",
        "redis+cluster://:secret@h1/0,redis+cluster://h2/0",
        "redis://:secret@h1/0,http://h2",
    ):
        with pytest.raises(ConfigError) as caught:
            plain_urls(bad)
        assert "secret" not in str(caught.value)
