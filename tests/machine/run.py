"""One run: the system, its clients, the blows; at last silence, and a look at what is left."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from rich.console import Console

from shared.errors import FabricError
from shared.messages import Report
from shared.redis_fabric import RedisFabric
from tests.machine.clients import Bodies, Clients, Tally, learn_truth
from tests.machine.cluster import Cluster
from tests.machine.door import Door
from tests.machine.oracle import Oracle
from tests.machine.plan import draw_faults
from tests.machine.probe import Probe
from tests.machine.wear import Wear
from tests.support.key_check import looked_into, misplaced_keys
from tests.support.waiting import eventually

QUIET_S = 90.0
SAMPLE_S = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    seed: int
    seconds: float
    every_s: float
    clients: int
    prompts: tuple[str, ...] = ()
    """For a model: what it is asked. Empty: the engine without a model."""
    need_kills: int = 0
    """A run with fewer has tried too little to have shown anything."""
    durable: bool = True
    targets: tuple[str, ...] = ()
    """Who is struck; empty: everybody."""


@dataclass(slots=True)
class Result:
    tally: Tally
    cluster: Cluster
    door: Door
    wear: Wear
    plan: Plan
    probe: Probe = field(default_factory=Probe)
    leaks: list[str] = field(default_factory=list)

    @property
    def enough_kills(self) -> bool:
        return self.cluster.kills.total() >= self.plan.need_kills

    @property
    def holds(self) -> bool:
        tally = self.tally
        broken = tally.lost or tally.twice or tally.wrong or self.leaks or self.cluster.deaths or (self.plan.durable and self.probe.lost)
        return self.enough_kills and not broken


async def run(plan: Plan, model: Path, directory: Path) -> Result:
    console = Console(stderr=True)
    async with Cluster(model, directory, torch=bool(plan.prompts), durable=plan.durable) as cluster:
        fabric = await cluster.fabric()
        async with httpx2.AsyncClient(timeout=httpx2.Timeout(40.0, connect=5.0), limits=httpx2.Limits(max_connections=200)) as http:
            door = Door(cluster.system.urls, http)
            bodies = Bodies(plan.seed, plan.prompts)
            oracle = Oracle(fabric, await learn_truth(door, bodies))
            clients = Clients(door, oracle, bodies, plan.seed)
            result = Result(clients.tally, cluster, door, Wear(), plan)
            await _attack(plan, cluster, clients, result, console)
        result.leaks += await left_in(fabric, cluster)
        await fabric.disconnect()
    result.leaks += [f"process {name} is left" for name in cluster.left_behind()]
    return result


async def _attack(plan: Plan, cluster: Cluster, clients: Clients, result: Result, console: Console) -> None:
    until, began = asyncio.Event(), time.monotonic()
    asking = [asyncio.create_task(clients.keep_asking(until)) for _ in range(plan.clients)]
    sampling = asyncio.create_task(_sample(result, began))
    probing = asyncio.create_task(result.probe.run(cluster.server.url))
    blows: list[asyncio.Task[Any]] = []
    for fault in draw_faults(plan.seed, plan.targets or cluster.targets, plan.seconds, plan.every_s):
        await asyncio.sleep(max(0.0, began + fault.at_s - time.monotonic()))
        tally = result.tally
        console.print(
            f"{time.monotonic() - began:6.1f} s  {fault.blow} {fault.target:12} right {sum(tally.right.values())}"
            f"  twice {len(tally.twice)}  wrong {len(tally.wrong)}  lost {len(tally.lost)}", highlight=False,
        )  # fmt: skip
        blows.append(asyncio.create_task(cluster.strike(fault)))
    await asyncio.sleep(max(0.0, began + plan.seconds - time.monotonic()))
    await asyncio.gather(*blows)
    until.set()
    await asyncio.gather(*asking)
    result.probe.stopping = True
    await probing
    sampling.cancel()
    await asyncio.gather(sampling, return_exceptions=True)


async def _sample(result: Result, began: float) -> None:
    while True:
        result.wear.sample(time.monotonic() - began, result.cluster.pids())
        await asyncio.sleep(SAMPLE_S)


async def left_in(fabric: RedisFabric, cluster: Cluster) -> list[str]:
    """What should not be there once nobody asks for anything."""
    leaks = []
    try:
        await eventually(lambda: _nothing_lives(fabric), QUIET_S)
    except AssertionError:
        leaks.append(f"requests live on: {await fabric.read_submissions('0-0')}")
    try:
        await eventually(lambda: _all_blocks_free(fabric), QUIET_S)
    except AssertionError:
        leaks += [f"blocks are held: {line}" for line in await _held(fabric)]
    with looked_into(cluster.server.url) as server:
        leaks += misplaced_keys(server.client)
    return leaks


async def _nothing_lives(fabric: RedisFabric) -> bool:
    try:
        return not await fabric.read_submissions("0-0")
    except FabricError:
        return False


async def _all_blocks_free(fabric: RedisFabric) -> bool:
    try:
        return not await _held(fabric)
    except FabricError:
        return False


async def _held(fabric: RedisFabric) -> list[str]:
    """Workers whose latest report owns or holds something, or counts a block as used."""
    latest = {event.ref: event for _, event in await fabric.read_events("0-0", count=100_000) if isinstance(event, Report)}
    held = []
    for info in await fabric.members():
        report = latest.get(info.ref)
        if report is None or report.owned or report.assists or report.credit.blocks != info.total_blocks:
            held.append(f"{info.ref}: {report}")
    return held
