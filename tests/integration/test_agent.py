"""An agent with real processes: scaled up under a stream of requests, a crash mended, scaled down with drain; nothing lost, nobody left."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from cli.scale import ScaleSettings, run_scale
from cli.scale_plan import Kind
from cli.system import System, SystemPlan
from cli.top import run_top
from shared.child import Child
from shared.errors import BadRequest, HeadstartError
from shared.messages import AgentInfo, LogEnd, LogEntry, LogTokens, ManagedState, ManagedWorker
from shared.redis_agents import AgentRegistry
from shared.types import Phase, RequestId, SamplingParams
from tests.support.key_check import looked_into, misplaced_keys
from tests.support.pool import Pool
from tests.support.waiting import eventually
from workers.agent.client import AgentClient
from workers.agent.control import LAUNCH, host_queue, make_app
from workers.agent.settings import LaunchSpec, broker_url
from workers.fake_engine import FakeModel, reference_tokens

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("agent")]

WEIGHTS = Path(__file__).parents[2] / "examples" / "demo_model" / "weights"
MODEL = FakeModel(vocab_size=2048, eos_token_ids=frozenset({1}), max_model_tokens=2048)
HOST = socket.gethostname()
FAKE = ("--engine", "fake", "--kv-mib", "4", "--staging-mib", "16", "--max-sequences", "4", "--token-budget", "64")
ENOUGH_S = 90.0


@pytest_asyncio.fixture
async def pool() -> AsyncIterator[Pool]:
    """A scheduler and an agent; workers are for the test to ask for."""
    async with Pool.running(System(SystemPlan(WEIGHTS, "demo", (), pool="agent", ports=()))) as pool:
        agent = Child("agent", ["agent", "--model", str(WEIGHTS), "--pool", "agent", "--log-level", "warning"], environment(pool))
        await pool.system.children.add(agent)
        yield pool


def environment(pool: Pool) -> dict[str, str]:
    return {"HEADSTART_REDIS_URL": pool.system.redis_url, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}


async def the_agent(pool: Pool) -> AgentInfo:
    async def found() -> tuple[AgentInfo, ...]:
        assert pool.child("agent").running, pool.child("agent").tail
        return await AgentRegistry.of(pool.fabric).agents()

    (agent,) = await eventually(found, ENOUGH_S)
    return agent


async def row(pool: Pool, name: str) -> ManagedWorker | None:
    return next((row for row in (await the_agent(pool)).workers if row.name == name), None)


async def scale(pool: Pool, targets: Mapping[str, int], *, dry_run: bool = False) -> int:
    kinds = {"low": Kind("low", (*FAKE, "--slowdown", "3", "--role", "low")), "high": Kind("high", FAKE)}
    return await run_scale(ScaleSettings(pool.system.redis_url, "", "agent", kinds, targets, drain_s=1.0, wait_s=ENOUGH_S, dry_run=dry_run))


async def test_workers_come_and_go_under_a_stream_of_requests(pool: Pool, capsys: pytest.CaptureFixture[str]) -> None:
    await nothing_happens_in_a_dry_run(pool, capsys)
    asked: dict[RequestId, int] = {}
    asking = asyncio.create_task(ask_on(pool, asked))
    assert await scale(pool, {"low": 2, "high": 1}) == 0
    told = capsys.readouterr().out
    assert told.count("launch ") == 3
    assert "done: 3 joined, 0 gone" in told
    await eventually(lambda: some_answered(pool, asked, 4), ENOUGH_S)
    await top_shows_them(pool, capsys)
    await a_crash_is_mended(pool)

    assert await scale(pool, {"low": 0, "high": 1}) == 0
    assert capsys.readouterr().out.count("drain ") == 2
    await eventually(lambda: some_answered(pool, asked, 8), ENOUGH_S)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    for request_id, number in asked.items():
        assert await answer(pool, request_id) == reference_tokens(prompt(number), sampling(number), MODEL)

    await what_only_crashes_is_given_up(pool)
    await a_pickle_is_not_read(pool)
    await nobody_is_left(pool)


async def nothing_happens_in_a_dry_run(pool: Pool, capsys: pytest.CaptureFixture[str]) -> None:
    await the_agent(pool)
    assert await scale(pool, {"low": 2, "high": 1}, dry_run=True) == 0
    assert capsys.readouterr().out.count("would launch") == 3
    assert (await the_agent(pool)).workers == ()


async def ask_on(pool: Pool, asked: dict[RequestId, int]) -> None:
    """Requests for as long as it takes; about six live at once."""
    for number in range(10_000):
        await eventually(lambda: room(pool), ENOUGH_S)
        asked[await pool.submit(prompt(number), sampling(number))] = number


async def room(pool: Pool) -> bool:
    return len(await pool.fabric.read_submissions("0-0")) < 6


async def answer(pool: Pool, request_id: RequestId) -> tuple[int, ...]:
    """Its tokens, once it has finished; who computed them may be gone, and with it a part of the story."""

    async def entries() -> list[LogEntry]:
        read = [logged.entry for logged in await pool.fabric.read_log(request_id)]
        return read if read and isinstance(read[-1], LogEnd) else []

    *tokens, end = await eventually(entries, ENOUGH_S)
    assert isinstance(end, LogEnd)
    assert end.phase is Phase.FINISHED, end
    written = [entry for entry in tokens if isinstance(entry, LogTokens)]
    positions = [at for entry in written for at in range(entry.index, entry.index + len(entry.token_ids))]
    assert positions == list(range(len(positions))), "every index once and in order"
    return tuple(token for entry in written for token in entry.token_ids)


def prompt(number: int) -> tuple[int, ...]:
    return tuple((7 * number + 13 * at) % 1999 + 2 for at in range(200 + 50 * (number % 4)))


def sampling(number: int) -> SamplingParams:
    return SamplingParams(120, temperature=0.0, ignore_eos=True, seed=number)


async def some_answered(pool: Pool, asked: Mapping[RequestId, int], more: int) -> bool:
    """So many of the latest have ended."""
    records = await pool.fabric.records(tuple(asked)[-3 * more :])
    return sum(record is not None and record.phase is Phase.FINISHED for record in records) >= more


async def top_shows_them(pool: Pool, capsys: pytest.CaptureFixture[str]) -> None:
    await run_top(pool.system.redis_url, "agent", once=True, every_s=1.0)
    frame = capsys.readouterr().out
    assert frame.startswith("pool agent: ")
    assert f"agent {HOST}: 3 of 3 workers run" in frame


async def a_crash_is_mended(pool: Pool) -> None:
    name = f"{HOST}-low-1"
    before, member = await row(pool, name), await pool.member(name)
    assert before is not None
    os.kill(before.pid, signal.SIGKILL)

    async def back() -> bool:
        now = await row(pool, name)
        if now is None or now.state is not ManagedState.RUNNING or now.restarts != 1 or now.pid in (0, before.pid):
            return False
        return any(info.ref.worker == name and info.ref != member for info in await pool.fabric.members())

    await eventually(back, ENOUGH_S)


async def what_only_crashes_is_given_up(pool: Pool) -> None:
    """A model that is not there: it fails at every start, and its complaint is seen."""
    agent = await the_agent(pool)
    client = AgentClient(broker_url(pool.system.redis_url, ""))
    try:
        with pytest.raises(BadRequest, match="'options' has --redis-url"):
            await asyncio.to_thread(client.launch, agent, LaunchSpec("bad", "low", ("--redis-url", "redis://elsewhere")))
        first = await asyncio.to_thread(client.launch, agent, LaunchSpec("bad", "low", FAKE, model="/nowhere"))
        again = await asyncio.to_thread(client.launch, agent, LaunchSpec("bad", "low", FAKE, model="/nowhere"))
        assert (first["name"], again["name"]) == ("bad", "bad")

        async def complains() -> bool:
            bad = await row(pool, "bad")
            return (
                bad is not None and bad.state in (ManagedState.BACKING_OFF, ManagedState.GIVEN_UP) and "no such directory" in bad.complaint
            )

        await eventually(complains, ENOUGH_S)
        await asyncio.to_thread(client.stop, agent, "bad")
        await eventually(lambda: gone(pool, "bad"), ENOUGH_S)
        assert [worker["name"] for worker in await asyncio.to_thread(client.list, agent)] == [f"{HOST}-high-1"]
    finally:
        client.close()


async def gone(pool: Pool, name: str) -> bool:
    return await row(pool, name) is None


async def a_pickle_is_not_read(pool: Pool) -> None:
    """Sent all the same, it is thrown away unread, and the agent serves the next task."""
    agent = await the_agent(pool)
    app = make_app(broker_url(pool.system.redis_url, ""))
    app.conf.accept_content = ["json", "pickle"]
    marker = Path(pool.system.plan.model).name
    await asyncio.to_thread(
        lambda: app.send_task(
            LAUNCH, kwargs={"spec": LaunchSpec("pickled", marker).to_json()}, queue=host_queue(agent.queue), serializer="pickle"
        )
    )
    app.close()
    client = AgentClient(broker_url(pool.system.redis_url, ""))
    try:
        names = [worker["name"] for worker in await asyncio.to_thread(client.list, agent)]
    finally:
        client.close()
    assert "pickled" not in names


async def nobody_is_left(pool: Pool) -> None:
    """SIGTERM to the agent alone: its workers drain, and with them it is gone; so is its lease."""
    child = pool.child("agent")
    assert child.process is not None
    family = psutil.Process(child.process.pid).children(recursive=True)
    assert family
    child.process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(child.process.wait(), ENOUGH_S) == 0
    assert not [process for process in family if process.is_running()]
    assert await AgentRegistry.of(pool.fabric).agents() == ()
    with looked_into(pool.system.redis_url) as server:
        assert not misplaced_keys(server.client)


async def test_a_killed_agent_takes_its_workers_along_and_without_agents_scale_says_so(pool: Pool) -> None:
    agent = await the_agent(pool)
    client = AgentClient(broker_url(pool.system.redis_url, ""))
    spec = LaunchSpec("orphan", "low", FAKE, drain_s=0.5)
    launched = await asyncio.to_thread(client.launch, agent, spec)
    client.close()
    worker = psutil.Process(launched["pid"])
    await pool.kill("agent")
    await eventually(lambda: asyncio.to_thread(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE), ENOUGH_S)
    await eventually(lambda: nobody(pool), ENOUGH_S)
    with pytest.raises(HeadstartError, match="no agent serves pool agent"):
        await scale(pool, {"low": 1})


async def nobody(pool: Pool) -> bool:
    return not await AgentRegistry.of(pool.fabric).agents()
