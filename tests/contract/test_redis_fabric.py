"""What the fabric on a server has beyond the promise: many at once, hints, bounds, and a server that is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from redis.crc import key_slot

from shared.codec import TAGS, Codec
from shared.connection import open_connection
from shared.durability import Durability
from shared.errors import ConfigError, DecodeError, FabricError, FabricUnavailable, Refused
from shared.fabric import Grown, SubmitStatus, WriteStatus
from shared.fabric_settings import FabricSettings
from shared.keys import Keys
from shared.line import Load
from shared.messages import Drain, GatewayBeat, StoryLine
from shared.redis_fabric import RedisFabric, connect
from shared.server import EmbeddedServer, free_port
from shared.types import Phase, PoolId, RequestId
from shared.versions import VERSION
from tests.contract.words import END, G1, R1, R2, W1, accept, assign, assist, head, info, lead, report, run, submission, tokens
from tests.support.waiting import eventually

MANY = [RequestId(f"r{number}") for number in range(200)]


async def ttl(fabric: RedisFabric, key: str) -> int:
    return int(await fabric.connection.command("TTL", key))


# --- many logs at once -------------------------------------------------------------------------------------------


async def test_many_logs_are_written_and_followed_together(redis_fabric: RedisFabric) -> None:
    for request_id in MANY:
        await redis_fabric.create_log(head(request_id))
    written = await redis_fabric.append_many([(request_id, 1, (tokens(0, 5),), None) for request_id in MANY])
    assert set(written) == {WriteStatus.DONE}
    found = await redis_fabric.read_logs(dict.fromkeys(MANY, "0-0"))
    assert {request_id: [entry.entry for entry in entries] for request_id, entries in found.items()} == {
        request_id: [tokens(0, 5)] for request_id in MANY
    }
    after = {request_id: entries[-1].entry_id for request_id, entries in found.items()}
    for _ in range(2):
        await redis_fabric.append_many([(MANY[3], 1, (tokens(1, 6), tokens(2, 7)), END)])
    assert {request_id: len(entries) for request_id, entries in (await redis_fabric.read_logs(after)).items()} == {MANY[3]: 3}
    assert await redis_fabric.read_logs({}) == {}


async def test_each_append_of_many_has_its_own_answer(redis_fabric: RedisFabric) -> None:
    await redis_fabric.create_log(head(R1))
    appends = [
        (R1, 1, (tokens(0, 5),), None),
        (R2, 1, (tokens(0, 5),), None),
        (R1, 1, (tokens(9, 5),), None),
        (R1, 2, (tokens(1, 5),), None),
    ]
    assert await redis_fabric.append_many(appends) == (WriteStatus.DONE, WriteStatus.MISSING, WriteStatus.GAP, WriteStatus.SUPERSEDED)


async def test_records_of_many(redis_fabric: RedisFabric) -> None:
    await accept(redis_fabric, R2)
    nobody, found = await redis_fabric.records((R1, R2))
    assert nobody is None
    assert found == await redis_fabric.record(R2)


async def test_scripts_that_the_server_has_forgotten_are_sent_again(redis_fabric: RedisFabric) -> None:
    await redis_fabric.create_log(head(R1))
    await redis_fabric.connection.ask("SCRIPT FLUSH")
    assert await redis_fabric.append_many([(R1, 1, (tokens(0, 5),), None)]) == (WriteStatus.DONE,)
    await redis_fabric.connection.ask("SCRIPT FLUSH")
    assert await redis_fabric.append(R1, 1, (tokens(1, 5),)) is WriteStatus.DONE


# --- hints and waiting -------------------------------------------------------------------------------------------


async def test_a_hint_wakes_who_follows(redis_fabric: RedisFabric) -> None:
    async with aclosing(redis_fabric.wakeups()) as hints:
        assert await anext(hints) == ()
        await redis_fabric.notify([R1, R2])
        assert await asyncio.wait_for(anext(hints), 10) == (Grown(R1), Grown(R2))
        await redis_fabric.connection.publish(redis_fabric.keys.wake, b"\xc1 no hint of ours")
        assert await asyncio.wait_for(anext(hints), 10) == ()


async def test_a_blocked_reader_wakes_up(redis_fabric: RedisFabric) -> None:
    reading = asyncio.create_task(redis_fabric.read_control(W1, "0-0", block_ms=30_000))
    await asyncio.sleep(0)
    await redis_fabric.command(await lead(redis_fabric), W1, Drain(1.0))
    ((_, message),) = await asyncio.wait_for(reading, 10)
    assert message == Drain(1.0)


async def test_a_reader_with_nothing_to_read_comes_back(redis_fabric: RedisFabric) -> None:
    assert await redis_fabric.read_jobs(W1, "0-0", block_ms=20) == ()


async def test_what_cannot_be_read_is_skipped_and_counted(redis_fabric: RedisFabric) -> None:
    for raw in (b"noise", b"\x93\x63\x01\x01"):
        await redis_fabric.connection.command("XADD", redis_fabric.keys.events, "*", "m", raw)
    await redis_fabric.tell_scheduler(GatewayBeat(G1, 1))
    assert [event for _, event in await redis_fabric.read_events("0-0", count=2)] == [GatewayBeat(G1, 1)]
    assert redis_fabric.undecodable == 2


async def test_a_worker_of_an_unknown_version_is_no_member_and_that_is_said_once(
    redis_fabric: RedisFabric, caplog: pytest.LogCaptureFixture
) -> None:
    """It came although it was not let in: it knows nothing of versions, or joined while nobody led."""
    causes: list[str] = []
    redis_fabric.on_undecodable = causes.append
    await redis_fabric.join(info(), 60.0)
    await redis_fabric.connection.command("HSET", redis_fabric.keys.member(W1), "info", Codec(TAGS, VERSION + 2).encode(info()))
    for _ in range(2):
        assert await redis_fabric.members() == ()
    assert causes == ["version", "version"]
    (said,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert f"version {VERSION + 2} of the messages, where this process speaks {VERSION}" in said.getMessage()
    with pytest.raises(ConfigError, match=f"has a worker of version {VERSION + 2}"):
        await redis_fabric.check_versions()


async def test_a_leader_two_versions_away_is_not_asked_for_anything(redis_fabric: RedisFabric) -> None:
    await redis_fabric.publish_load(await lead(redis_fabric), 0, 10, 0.0)
    await redis_fabric.check_versions()
    for theirs, answer in ((VERSION + 1, SubmitStatus.ACCEPTED), (VERSION + 2, SubmitStatus.OTHER_VERSION)):
        await redis_fabric.connection.command("HSET", redis_fabric.keys.load, "version", theirs)
        await redis_fabric.create_log(head(R2))
        assert (await redis_fabric.submit(submission(R2))).status is answer
        await redis_fabric.close(R2, 1, Phase.CANCELLED)
        await redis_fabric.connection.command("DEL", redis_fabric.keys.request(R2))
    assert await redis_fabric.head(R2) is None, "what nobody will read is taken back"
    with pytest.raises(ConfigError, match=f"led by a scheduler of version {VERSION + 2}"):
        await redis_fabric.check_versions()


async def test_an_unreadable_token_is_no_gap_but_an_error(redis_fabric: RedisFabric) -> None:
    await redis_fabric.create_log(head(R1))
    await redis_fabric.append(R1, 1, (tokens(0, 5),))
    await redis_fabric.connection.command("XADD", redis_fabric.keys.log(R1).entries, "*", "m", b"noise")
    with pytest.raises(DecodeError):
        await redis_fabric.read_log(R1)


# --- members, load, stories --------------------------------------------------------------------------------------


async def test_a_report_keeps_its_worker_and_its_streams(redis_fabric: RedisFabric) -> None:
    keys = redis_fabric.keys
    await redis_fabric.join(info(), 60.0)
    await redis_fabric.place(await lead(redis_fabric), W1, assist(1))
    for key in (keys.member(W1), keys.members, keys.jobs(W1)):
        await redis_fabric.connection.command("EXPIRE", key, 5)
    await redis_fabric.tell_scheduler(report())
    for key in (keys.member(W1), keys.members, keys.jobs(W1)):
        assert await ttl(redis_fabric, key) > 5


async def test_a_worker_that_was_forgotten_joins_again_with_its_report(redis_fabric: RedisFabric) -> None:
    await redis_fabric.join(info(), 60.0)
    await redis_fabric.connection.command("DEL", redis_fabric.keys.member(W1))
    assert await redis_fabric.members() == ()
    await redis_fabric.tell_scheduler(report())
    assert await redis_fabric.members() == (info(),)
    await redis_fabric.leave(W1)
    await redis_fabric.tell_scheduler(report(counter=2))
    assert await redis_fabric.members() == ()


async def test_the_published_load_can_be_read(redis_fabric: RedisFabric) -> None:
    assert await redis_fabric.load() is None
    await redis_fabric.publish_load(await lead(redis_fabric), 3, 50, 1.5)
    assert await redis_fabric.load() == Load(3, 50, 1.5, version=VERSION)


async def test_a_repeated_line_is_told_once(redis_fabric: RedisFabric) -> None:
    line, other = StoryLine(1, "w", "x", {}), StoryLine(2, "w", "y", {})
    for lines in ((line, other), (line, other), (other,), ()):
        await redis_fabric.tell_story(R1, lines)
    assert await redis_fabric.story(R1) == (line, other)


# --- bounds and expiry -------------------------------------------------------------------------------------------


class TestBounds:
    @pytest.fixture
    def settings(self) -> FabricSettings:
        return FabricSettings(max_waiting=2, live_ttl_s=1000, retention_s=10, clock_step_s=100, story_max=3)

    async def test_without_a_leader_the_settings_bound_the_queue(self, redis_fabric: RedisFabric) -> None:
        await accept(redis_fabric, RequestId("a"))
        await accept(redis_fabric, RequestId("b"))
        assert (await redis_fabric.submit(submission(R1))).status is SubmitStatus.BUSY

    async def test_an_ended_request_is_kept_for_a_while(self, redis_fabric: RedisFabric) -> None:
        keys = redis_fabric.keys
        await redis_fabric.create_log(head())
        await redis_fabric.submit(submission(), idempotency_key="k")
        of_record, of_log = (keys.request(R1), keys.idempotency("k")), (keys.log(R1).head, keys.log(R1).entries)
        await redis_fabric.append(R1, 1, (tokens(0, 1),))
        for key in (*of_record, *of_log):
            assert 110 < await ttl(redis_fabric, key) <= 1000
        await redis_fabric.append(R1, 1, (tokens(1, 2),), END)
        await redis_fabric.close(R1, 1, Phase.FINISHED)
        for key in (*of_record, *of_log):
            assert 100 < await ttl(redis_fabric, key) <= 110, "a wall clock set forward takes nothing early"

    async def ended(self, fabric: RedisFabric, request_id: RequestId, *, age_s: int) -> tuple[str, ...]:
        """Its keys, as they are so long after its end."""
        keys = (fabric.keys.request(request_id), fabric.keys.log(request_id).head, fabric.keys.log(request_id).entries)
        await accept(fabric, request_id)
        await fabric.append(request_id, 1, (tokens(0, 1),), END)
        await fabric.close(request_id, 1, Phase.FINISHED)
        await fabric.connection.pipeline([("EXPIRE", key, 110 - age_s) for key in keys])
        return keys

    async def test_the_leader_sweeps_what_has_ended_when_its_retention_is_over(self, redis_fabric: RedisFabric) -> None:
        old, kept, young = [RequestId(name) for name in ("old", "kept", "young")]
        await self.ended(redis_fabric, old, age_s=11)
        of_kept, of_young = await self.ended(redis_fabric, kept, age_s=11), await self.ended(redis_fabric, young, age_s=5)
        await accept(redis_fabric, R1)
        await redis_fabric.retain([kept])
        assert await redis_fabric.sweep([old, kept, young, R1, RequestId("never")]) == 4, "three of the old one, and a record"
        assert await redis_fabric.record(old) is None
        assert await redis_fabric.head(old) is None
        assert await redis_fabric.read_log(old) == ()
        for key in (*of_kept[1:], *of_young):
            assert await ttl(redis_fabric, key) > 0, "asked for by a conversation, or not old enough"
        record = await redis_fabric.record(R1)
        assert record is not None
        assert record.phase is Phase.QUEUED, "live"

    async def test_an_idempotency_key_goes_with_its_request(self, redis_fabric: RedisFabric) -> None:
        await redis_fabric.create_log(head())
        await redis_fabric.submit(submission(), idempotency_key="k")
        await redis_fabric.append(R1, 1, (tokens(0, 1),), END)
        await redis_fabric.close(R1, 1, Phase.FINISHED)
        await redis_fabric.connection.command("EXPIRE", redis_fabric.keys.request(R1), 99)
        await redis_fabric.sweep([R1])
        assert await ttl(redis_fabric, redis_fabric.keys.idempotency("k")) == -2

    async def test_a_story_keeps_its_last_lines(self, redis_fabric: RedisFabric) -> None:
        for at in range(5):
            await redis_fabric.tell_story(R1, (StoryLine(at, "w", "x", {}),))
        assert [line.at_ms for line in await redis_fabric.story(R1)] == [2, 3, 4]

    async def test_a_forgotten_request_gives_back_its_place_and_its_bytes(self, redis_fabric: RedisFabric) -> None:
        for request_id in (R1, R2):
            await accept(redis_fabric, request_id)
            await redis_fabric.connection.command("DEL", redis_fabric.keys.request(request_id))
        await accept(redis_fabric, RequestId("a"))
        assert [found.request_id for _, found in await redis_fabric.read_submissions("0-0")] == ["a"]
        reserved = int(await redis_fabric.connection.command("GET", redis_fabric.keys.reserved))
        assert reserved == redis_fabric.settings.reservation(submission())


async def test_a_refused_request_leaves_no_log(redis_fabric: RedisFabric) -> None:
    await redis_fabric.publish_load(await lead(redis_fabric), 0, 10, 9999.0)
    await redis_fabric.create_log(head())
    assert (await redis_fabric.submit(submission())).status is SubmitStatus.BUSY
    assert await redis_fabric.head(R1) is None


async def test_a_repeated_request_leaves_no_second_log(redis_fabric: RedisFabric) -> None:
    for request_id in (R1, R2):
        await redis_fabric.create_log(head(request_id))
        await redis_fabric.submit(submission(request_id), idempotency_key="k", body_digest="d")
    assert await redis_fabric.head(R2) is None
    assert await redis_fabric.head(R1) == head(R1)


async def test_a_full_server_takes_nothing_on_but_finishes_what_it_has(valkey_url: str) -> None:
    fabric = await connect(valkey_url, PoolId("p"))
    epoch = await run(fabric)
    await fabric.create_log(head(R2))
    before = (await fabric.connection.ask("CONFIG", "GET", "maxmemory"))[1]
    await fabric.connection.ask("CONFIG", "SET", "maxmemory", 1)
    try:
        with pytest.raises(Refused) as refused:
            await fabric.create_log(head(RequestId("new")))
        assert refused.value.memory
        assert (await fabric.submit(submission(R2))).status is SubmitStatus.NO_MEMORY
        assert await fabric.append(R1, 1, (tokens(0, 1),), END) is WriteStatus.DONE
        assert await fabric.close(R1, 1, Phase.FINISHED) is WriteStatus.DONE
        assert await fabric.place(epoch, W1, assign(epoch)) is WriteStatus.ENDED
    finally:
        await fabric.connection.ask("CONFIG", "SET", "maxmemory", before)
        await fabric.disconnect()


# --- the server --------------------------------------------------------------------------------------------------


@pytest.mark.xdist_group("cluster")
async def test_a_cluster_spreads_the_logs(cluster_url: str) -> None:
    fabric = await connect(cluster_url.replace("redis://", "redis+cluster://"), PoolId("p"))
    assert fabric.connection.is_cluster
    slots = {key_slot(fabric.keys.log(request_id).head.encode()) for request_id in MANY}
    assert len({slot * 3 // 16384 for slot in slots}) == 3
    await fabric.disconnect()


@pytest.fixture
async def mortal() -> AsyncIterator[tuple[EmbeddedServer, RedisFabric]]:
    """A server that a test may stop, and a fabric on it that waits for nothing long."""
    with EmbeddedServer(loopback=True) as server:
        fabric = await connect(server.url, PoolId("p"), FabricSettings(command_timeout_s=0.3, connect_timeout_s=0.3))
        yield server, fabric
        await fabric.disconnect()


async def test_a_server_that_is_away_is_unavailable(mortal: tuple[EmbeddedServer, RedisFabric]) -> None:
    server, fabric = mortal
    await fabric.create_log(head())
    reading = asyncio.create_task(fabric.read_jobs(W1, "0-0", block_ms=30_000))
    await asyncio.sleep(0)
    server.stop()
    with pytest.raises(FabricUnavailable):
        await asyncio.wait_for(reading, 10)
    for call in (fabric.head(R1), fabric.append(R1, 1, ()), fabric.read_logs({R1: "0-0"}), fabric.append_many([(R1, 1, (), END)])):
        with pytest.raises(FabricUnavailable):
            await call
    await fabric.notify([R1])
    with pytest.raises(FabricUnavailable):
        await open_connection(f"redis://127.0.0.1:{free_port()}/0")


async def test_a_restarted_server_is_found_again(mortal: tuple[EmbeddedServer, RedisFabric]) -> None:
    server, fabric = mortal
    async with aclosing(fabric.wakeups()) as hints:
        assert await anext(hints) == ()
        server.stop()
        server.start()
        await fabric.create_log(head())
        assert await asyncio.wait_for(anext(hints), 10) == ()
    await eventually(lambda: fabric.head(R1))


async def test_a_wrong_password_is_a_matter_of_configuration(valkey_url: str) -> None:
    with pytest.raises(ConfigError, match="HEADSTART_REDIS_URL") as caught:
        await connect(valkey_url.replace("://:", "://:wrong"))
    assert "wrong" not in str(caught.value)


async def test_an_address_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="redis://") as caught:
        await connect("http://user:secret@127.0.0.1/")
    assert "secret" not in str(caught.value)


async def test_a_server_that_would_forget_keys_is_refused() -> None:
    with EmbeddedServer(options=("maxmemory-policy allkeys-lru",)) as server:
        with pytest.raises(ConfigError, match="noeviction"):
            await connect(server.url)


async def test_durable_mode_wants_a_server_that_keeps_every_write(valkey_url: str) -> None:
    durable = FabricSettings(durability=Durability.parse("fsync"))
    with pytest.raises(ConfigError, match="appendfsync always"):
        await connect(valkey_url, settings=durable)
    with EmbeddedServer(durable=True) as server:
        await (await connect(server.url, settings=durable)).disconnect()


async def test_a_bug_in_a_command_is_no_outage(redis_fabric: RedisFabric) -> None:
    with pytest.raises(FabricError) as caught:
        await redis_fabric.connection.command("LRANGE", redis_fabric.keys.submit, "a", "b")
    assert not isinstance(caught.value, FabricUnavailable)
    assert "secret" not in repr(redis_fabric)
    assert Keys(PoolId("p")).pool in repr(redis_fabric)


async def test_a_lease_lengthened_by_a_step_of_the_servers_clock_is_cut_to_its_length(redis_fabric: RedisFabric) -> None:
    """What a clock stepped back by an hour leaves of a dead leader: a lease that lasts another hour."""
    assert await lead(redis_fabric) > 0
    await redis_fabric.connection.command("PEXPIRE", redis_fabric.keys.leader, 3_600_000)
    assert await redis_fabric.lead("another", 60.0) == 0
    assert await ttl(redis_fabric, redis_fabric.keys.leader) <= 60
