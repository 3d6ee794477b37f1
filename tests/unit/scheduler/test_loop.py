"""The scheduler's shell on a fabric in memory, under a clock that the fabric moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from scheduler.core import SchedulerCore
from scheduler.events import RecordClosed
from scheduler.loop import KNOWN_AT_ONCE, LoopSettings, SchedulerLoop
from scheduler.settings import SchedulerSettings
from shared.clock import ManualClock
from shared.fabric import Fabric, LogHead, WriteStatus
from shared.messages import GatewayBeat, Submission
from shared.processes import cancel_all
from shared.types import GatewayId, Phase, RequestId, RequestSpec, SamplingParams
from tests.support.model_fabric import ModelFabric
from tests.support.waiting import eventually

BACKLOG = 5 * KNOWN_AT_ONCE
LEASE_S = 3.0
SLOW_S = 2.0 / KNOWN_AT_ONCE
"""Of each record: the whole backlog takes several leases, what is read at once does not."""


class SlowFabric(ModelFabric):
    """Every call lets others run; a record takes its time."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.clock = clock
        self.epochs: list[int] = []
        self.read = 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = super().__getattr__(name)

        async def yielding(*args: Any, **options: Any) -> Any:
            await asyncio.sleep(0)
            return await call(*args, **options)

        return yielding

    async def lead(self, candidate: str, ttl_s: float) -> int:
        await asyncio.sleep(0)
        self.epochs.append(self.model.lead(candidate, ttl_s))
        return self.epochs[-1]

    async def records(self, request_ids: tuple[RequestId, ...]) -> object:
        await asyncio.sleep(0)
        self.read += len(request_ids)
        self.clock.advance(SLOW_S * len(request_ids))
        return self.model.records(request_ids)


def waiting(fabric: SlowFabric, count: int) -> None:
    for at in range(count):
        name = RequestId(f"request-{at}")
        spec = RequestSpec(name, "model", (1, 2, 3), SamplingParams(4), 0)
        fabric.model.create_log(LogHead(spec, api="", owner_key=""))
        fabric.model.submit(Submission(name, 3, 4, 0, background=True))


async def test_the_lease_is_kept_while_a_long_backlog_is_read() -> None:
    """Else whoever is elected loses the lease on the way, begins anew and loses it again: nobody ever leads."""
    fabric = SlowFabric(ManualClock(1000.0))
    waiting(fabric, BACKLOG)
    settings = LoopSettings("only", lease_s=LEASE_S, renew_s=0.0, tick_s=0.01)
    loop = SchedulerLoop(SchedulerCore(SchedulerSettings()), cast(Fabric, fabric), fabric.clock, settings)
    running = asyncio.create_task(loop.run())

    async def led_on() -> bool:
        return fabric.read >= BACKLOG and len(fabric.epochs) > BACKLOG / KNOWN_AT_ONCE + 2

    await eventually(led_on)
    await cancel_all([running])
    assert set(fabric.epochs) == {fabric.epochs[0]}
    assert fabric.read == BACKLOG


async def test_a_new_leader_does_not_read_what_was_told_to_the_one_before() -> None:
    """20,000 long reports take longer to read than the lease lasts: every leader lost it, and the next began with the same."""
    fabric = SlowFabric(ManualClock(1000.0))
    for beat in range(10):
        fabric.model.tell_scheduler(GatewayBeat(GatewayId("g"), beat))
    settings = LoopSettings("only", lease_s=60.0, renew_s=0.01, tick_s=0.01)
    loop = SchedulerLoop(SchedulerCore(SchedulerSettings()), cast(Fabric, fabric), fabric.clock, settings)
    heard: list[int] = []
    loop.watches.append(lambda event, commands, seconds: heard.append(event.counter) if isinstance(event, GatewayBeat) else None)
    running = asyncio.create_task(loop.run())
    await eventually(lambda: _is(fabric.calls.count("read_events") > 1))
    fabric.model.tell_scheduler(GatewayBeat(GatewayId("g"), 10))
    await eventually(lambda: _is(bool(heard)))
    await cancel_all([running])
    assert heard == [10]
    assert fabric.calls.index("newest_event") < fabric.calls.index("read_events")


async def test_a_leader_asks_a_server_that_was_restarted_for_everything() -> None:
    """What it believed may have been in the writes that were lost: here, that the only request had ended."""
    fabric = SlowFabric(ManualClock(1000.0))
    waiting(fabric, 1)
    fabric.model.snapshot()
    settings = LoopSettings("only", lease_s=60.0, renew_s=0.01, tick_s=0.01, retry_s=0.01)
    loop = SchedulerLoop(SchedulerCore(SchedulerSettings()), cast(Fabric, fabric), fabric.clock, settings)
    running = asyncio.create_task(loop.run())
    await eventually(lambda: _is(fabric.read == 1))
    fabric.down = True
    asked = len(fabric.calls)
    await eventually(lambda: _is(len(fabric.calls) > asked + 3))
    fabric.model.close(RequestId("request-0"), 1, Phase.CANCELLED)
    fabric.model.return_to_snapshot()
    fabric.down = False
    await eventually(lambda: _is(fabric.read == 2))
    assert loop.core.leads
    await cancel_all([running])


async def test_what_ended_is_deleted_by_the_leaders_own_clock() -> None:
    """The server's may be set forward by an hour: an answer that nobody has read yet would be gone."""
    fabric = SlowFabric(ManualClock(1000.0))
    waiting(fabric, 2)
    settings = LoopSettings("only", lease_s=1e4, renew_s=0.01, tick_s=0.01, retention_s=600.0, sweep_s=0.01)
    loop = SchedulerLoop(SchedulerCore(SchedulerSettings()), cast(Fabric, fabric), fabric.clock, settings)
    running = asyncio.create_task(loop.run())
    await eventually(lambda: _is(fabric.read == 2))
    fabric.model.close(RequestId("request-0"), 1, Phase.CANCELLED)
    loop.feed([RecordClosed(RequestId("request-0"), WriteStatus.DONE)])
    asked = len(fabric.calls)
    await eventually(lambda: _is(len(fabric.calls) > asked + 10))
    assert "sweep" not in fabric.calls
    fabric.clock.advance(603.0)
    await eventually(lambda: _is(fabric.model.record(RequestId("request-0")) is None))
    assert fabric.model.record(RequestId("request-1")) is not None
    assert fabric.calls.count("sweep") == 1
    await cancel_all([running])


async def _is(condition: bool) -> bool:
    return condition
