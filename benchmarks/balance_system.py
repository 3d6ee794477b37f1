"""The system under test: message server, one high-end and one low-end worker that stay, and a scheduler anew for each policy."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.balance_cgroup import Controller, CpuGroup, group_name, remove_forgotten
from benchmarks.balance_worker import GROUPS_VARIABLE
from cli.children import Child
from cli.system import System, SystemPlan, WorkerPlan
from shared.messages import WorkerInfo
from shared.redis_fabric import RedisFabric
from shared.server import free_port
from shared.types import PoolId
from tests.support.scrape import Scraped, scrape
from tests.support.waiting import eventually

POOL = PoolId("balance")
HIGH, LOW = "high", "low"
CORES = sorted(os.sched_getaffinity(0))
HIGH_CORE, LOW_CORE = CORES[0], CORES[-1]
SETTLE_S = 120.0
BUSY = ("num_requests_running", "num_requests_waiting", "num_head_starts")
"""Gauges that are zero when a worker holds nothing."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What makes the two workers unequal."""

    cpu_share: float
    """Of one core."""
    kv_mib: int


@dataclass(frozen=True, slots=True)
class RigPlan:
    """What stays the same for all policies."""

    model: Path
    limits: dict[str, Limits]
    """By worker's name."""
    token_budget: int
    max_sequences: int


@dataclass(slots=True)
class Rig:
    """A running system; `lead_by` gives it a scheduler."""

    system: System
    fabric: RedisFabric
    groups: dict[str, CpuGroup]
    ports: dict[str, int]
    """Where the workers, and the scheduler while there is one, show their metrics."""
    members: tuple[WorkerInfo, ...] = ()
    _scheduler: Child | None = None
    _processes: dict[str, psutil.Process] = field(default_factory=dict)

    async def lead_by(self, policy: str) -> None:
        """The scheduler before it ends first; returns when the new one has heard of every worker."""
        await self.unlead()
        self.ports["scheduler"] = free_port()
        arguments = ["scheduler", "--pool", POOL, "--policy", policy, "--metrics-port", str(self.ports["scheduler"])]
        self._scheduler = Child("scheduler", [*arguments, "--log-level", "warning"], {"HEADSTART_REDIS_URL": self.system.redis_url})
        await self.system.children.add(self._scheduler)
        assert self._scheduler.process is not None
        self._processes = _processes(self.system) | {"scheduler": psutil.Process(self._scheduler.process.pid)}
        await eventually(self._led, SETTLE_S)

    async def _led(self) -> bool:
        status = await self.fabric.pool_status()
        if not status.leader:
            return False
        return (await scrape(self.ports["scheduler"]))("headstart:workers") == len(self.members)

    async def unlead(self) -> None:
        if self._scheduler is not None:
            await self._scheduler.stop(10.0)
            self._scheduler = None

    async def settled(self) -> None:
        """Returns when nobody holds anything any more."""
        await eventually(self._idle, SETTLE_S)

    async def _idle(self) -> bool:
        if (await self.fabric.pool_status()).live:
            return False
        seen = [await scrape(self.ports[name]) for name in self.groups]
        return not any(one(f"headstart:{what}") for one in seen for what in BUSY)

    async def series(self) -> dict[str, Scraped]:
        return {name: await scrape(port) for name, port in self.ports.items()}

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds of each process so far; `load` is this one."""
        return {name: sum(process.cpu_times()[:2]) for name, process in self._processes.items()}

    def throttled_s(self) -> dict[str, float]:
        return {name: group.throttled_s() for name, group in self.groups.items()}


@asynccontextmanager
async def running(plan: RigPlan, controller: Controller) -> AsyncIterator[Rig]:
    """Groups, server and workers; returns when the workers have measured themselves under their limits and joined."""
    remove_forgotten(controller)
    with ExitStack() as stack:
        stack.enter_context(_kept_on(LOW_CORE))
        groups = {
            name: stack.enter_context(CpuGroup(controller, group_name(name), limits.cpu_share)) for name, limits in plan.limits.items()
        }
        ports = {name: free_port() for name in plan.limits}
        async with System(_system_plan(plan, groups, ports)) as system:
            fabric = await RedisFabric.connect(system.redis_url, POOL)
            rig = Rig(system, fabric, groups, ports, await fabric.members())
            try:
                yield rig
            finally:
                await rig.unlead()
                await fabric.disconnect()


@contextmanager
def _kept_on(core: int) -> Iterator[None]:
    """This process, and what it starts: server, scheduler and load share a core with the low-end, and leave the high-end its own."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _system_plan(plan: RigPlan, groups: dict[str, CpuGroup], ports: dict[str, int]) -> SystemPlan:
    """No gateway and no scheduler: the one is the benchmark, the other changes with the policy."""
    common = ("--token-budget", str(plan.token_budget), "--max-sequences", str(plan.max_sequences), "--threads", "1", "--staging-mib", "32")
    workers = tuple(
        WorkerPlan(name, (*common, "--kv-mib", str(limits.kv_mib), "--metrics-port", str(ports[name])), module="benchmarks.balance_worker")
        for name, limits in plan.limits.items()
    )
    places = {name: (str(group.procs), HIGH_CORE if name == HIGH else LOW_CORE) for name, group in groups.items()}
    env = {GROUPS_VARIABLE: json.dumps(places), "OMP_NUM_THREADS": "1"}
    # Profiles of this run alone: one that was kept from a busy day would decide today's placements.
    env["HEADSTART_PROFILES"] = str(plan.model.parent / "profiles")
    return SystemPlan(plan.model, plan.model.name, workers, pool=POOL, ports=(), schedulers=0, env=env)


def _processes(system: System) -> dict[str, psutil.Process]:
    workers = {child.name: psutil.Process(child.process.pid) for child in system.children if child.process and child.args[0] == "worker"}
    servers = [child for child in psutil.Process().children() if "valkey" in child.name() or "redis" in child.name()]
    return {**workers, **({"server": servers[0]} if servers else {}), "load": psutil.Process()}
