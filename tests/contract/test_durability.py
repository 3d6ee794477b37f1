"""Nobody is told of what a crash could undo: each mode on real servers, and each server that cannot keep it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager

import pytest

from shared.durability import Durability
from shared.errors import ConfigError, NotDurable
from shared.fabric import SubmitStatus, WriteStatus
from shared.fabric_settings import FabricSettings
from shared.redis_fabric import RedisFabric, connect
from shared.scripts import APPEND, CREATE_LOG, SUBMIT
from shared.server import EmbeddedServer
from shared.types import PoolId, RequestId
from tests.contract.words import R1, accept, head, submission, tokens
from tests.support.redis_server import system_server
from tests.support.replicas import ask, calls_of, pair, stopped, until_followed

SOON = 0.3
"""Seconds that a test waits for a promise that cannot be kept."""


@asynccontextmanager
async def opened(url: str, mode: str, wait_s: float = 5.0) -> AsyncIterator[RedisFabric]:
    settings = FabricSettings(durability=Durability.parse(mode), durable_wait_s=wait_s, command_timeout_s=10.0)
    fabric = await connect(url, PoolId("p"), settings)
    try:
        for script in (CREATE_LOG, SUBMIT, APPEND):
            # One that the server does not know has not run, and is not tried again where no replica answers.
            await fabric.connection.ask("SCRIPT", "LOAD", script.text)
        yield fabric
    finally:
        await fabric.disconnect()


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[EmbeddedServer, EmbeddedServer]]:
    with pair() as servers:
        yield servers


@pytest.fixture
def primary(served: tuple[EmbeddedServer, EmbeddedServer]) -> EmbeddedServer:
    ask(served[0], "FLUSHALL")
    until_followed(served[0])
    return served[0]


@pytest.fixture
def replica(served: tuple[EmbeddedServer, EmbeddedServer]) -> EmbeddedServer:
    return served[1]


# --- kept --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["waitaof", "waitaof=1", "wait-replicas=1"])
async def test_a_request_and_its_tokens_wait_to_be_safe(primary: EmbeddedServer, mode: str) -> None:
    async with opened(primary.url, mode) as fabric:
        before = calls_of(primary, mode.split("=")[0].removesuffix("-replicas"))
        await accept(fabric)
        assert await fabric.append(R1, 1, (tokens(0, 5),)) is WriteStatus.DONE
        # The head, the submission, the tokens; once more for a script that the server does not know yet.
        assert before + 3 <= calls_of(primary, mode.split("=")[0].removesuffix("-replicas")) <= before + 6
        assert [one.entry for one in await fabric.read_log(R1)] == [tokens(0, 5)]


async def test_many_writes_wait_together(primary: EmbeddedServer) -> None:
    many = [RequestId(f"r{number}") for number in range(100)]
    async with opened(primary.url, "wait-replicas=1") as fabric:
        await asyncio.gather(*(fabric.create_log(head(one)) for one in many))
        ask(primary, "SCRIPT", "FLUSH")
        before = calls_of(primary, "wait")
        answers = await asyncio.gather(*(fabric.submit(submission(one)) for one in many))
        assert {answer.status for answer in answers} == {SubmitStatus.ACCEPTED}
        assert await fabric.append_many([(one, 1, (tokens(0, 5), tokens(1, 6)), None) for one in many]) == (WriteStatus.DONE,) * 100
        # Of the scripts' texts, sent by digest first, one group each at most comes again.
        assert calls_of(primary, "wait") - before <= 4


async def test_a_full_server_still_says_whether_it_is_safe(primary: EmbeddedServer) -> None:
    async with opened(primary.url, "wait-replicas=1") as fabric:
        await accept(fabric)
        ask(primary, "CONFIG", "SET", "maxmemory", "1mb")
        try:
            assert await fabric.append(R1, 1, (tokens(0, 5),)) is WriteStatus.DONE
        finally:
            ask(primary, "CONFIG", "SET", "maxmemory", "0")


# --- not kept in time --------------------------------------------------------------------------------------------


async def test_what_no_replica_has_is_not_told_and_is_not_written_twice(primary: EmbeddedServer, replica: EmbeddedServer) -> None:
    async with opened(primary.url, "wait-replicas=1", SOON) as fabric, opened(primary.url, "wait-replicas=1", SOON) as reader:
        await accept(fabric)
        heard = asyncio.create_task(_first_news(reader))
        await asyncio.sleep(0)
        with stopped(replica):
            with pytest.raises(NotDurable, match="0 of 1 replicas"):
                await fabric.write([(R1, 1, (tokens(0, 5),), None)])
            with pytest.raises(NotDurable):
                await reader.read_log(R1)
            with pytest.raises(NotDurable):
                await reader.read_logs({R1: "0-0"})
            assert not heard.done()
        until_followed(primary)
        assert await fabric.write([(R1, 1, (tokens(0, 5),), None)]) == (WriteStatus.DONE,)
        assert await heard == R1
        assert [one.entry for one in await reader.read_log(R1)] == [tokens(0, 5)]


async def _first_news(fabric: RedisFabric) -> RequestId:
    async with aclosing(fabric.wakeups()) as news:
        async for grown in news:
            if grown:
                return grown[0].request_id
    raise AssertionError("nothing was told")


async def test_a_submission_that_is_not_safe_can_be_repeated(primary: EmbeddedServer, replica: EmbeddedServer) -> None:
    """The repeat writes nothing, and is believed only once the first one is safe."""
    async with opened(primary.url, "wait-replicas=1", SOON) as fabric:
        again = submission(RequestId("r2"))
        await fabric.create_log(head(R1))
        with stopped(replica):
            for one in (submission(R1), again):
                with pytest.raises(NotDurable):
                    await fabric.submit(one, idempotency_key="k", body_digest="d")
        until_followed(primary)
        answer = await fabric.submit(again, idempotency_key="k", body_digest="d")
        assert (answer.status, answer.request_id) == (SubmitStatus.REPEATED, R1)
        assert len(await fabric.read_submissions("0-0")) == 1


async def test_a_server_that_loses_its_append_only_file_answers_nobody(primary: EmbeddedServer) -> None:
    async with opened(primary.url, "waitaof") as fabric:
        await accept(fabric)
        ask(primary, "CONFIG", "SET", "appendonly", "no")
        try:
            with pytest.raises(NotDurable, match="appendonly"):
                await fabric.append(R1, 1, (tokens(0, 5),))
        finally:
            ask(primary, "CONFIG", "SET", "appendonly", "yes")
        await _until_done(fabric)


async def _until_done(fabric: RedisFabric) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                assert await fabric.append(R1, 1, (tokens(0, 5),)) is WriteStatus.DONE
                return
            except NotDurable:
                await asyncio.sleep(0.05)


# --- refused at the start ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "remedy"),
    [("fsync", "set `appendfsync always`"), ("wait-replicas=2", "1 of 2 replicas; attach more"), ("waitaof=3", "1 of 3 replicas")],
)
async def test_a_server_that_cannot_is_refused(primary: EmbeddedServer, mode: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy):
        async with opened(primary.url, mode):
            pass


async def test_a_server_without_an_append_only_file_is_refused() -> None:
    with EmbeddedServer(options=("appendonly no",)) as server:
        for mode in ("fsync", "waitaof"):
            with pytest.raises(ConfigError, match="set `appendonly yes`"):
                async with opened(server.url, mode):
                    pass


async def test_redis_7_0_has_no_waitaof_and_says_what_it_has() -> None:
    with pair(system_server()) as (primary, _):
        if "redis_version:7.0" in str(ask(primary, "INFO", "server")):
            with pytest.raises(ConfigError, match=r"Redis 7\.0 has no WAITAOF; use Redis 7\.2 or Valkey"):
                async with opened(primary.url, "waitaof"):
                    pass
        async with opened(primary.url, "wait-replicas=1") as fabric:
            await accept(fabric)
            assert await fabric.append(R1, 1, (tokens(0, 5),)) is WriteStatus.DONE
            assert [one.entry for one in await fabric.read_log(R1)] == [tokens(0, 5)]


async def test_a_cluster_cannot_be_waited_for(cluster_url: str) -> None:
    with pytest.raises(ConfigError, match="on a cluster; set `appendfsync always`"):
        async with opened(cluster_url, "wait-replicas=1"):
            pass
