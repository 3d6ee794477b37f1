"""`headstart scale`: asks the agents to reach so many workers of each kind, and says what it did."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console

from cli.scale_plan import Action, Kind, Launch, NoRoom, Stop, plan_scale
from shared.errors import ConfigError, HeadstartError
from shared.messages import AgentInfo, ManagedState
from shared.redis_agents import AgentRegistry
from shared.redis_fabric import RedisFabric
from shared.types import PoolId
from workers.agent.client import AgentClient
from workers.agent.settings import broker_url, cluster_refused

POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class ScaleSettings:
    """What the command line decides."""

    redis_url: str
    celery_url: str
    pool: str
    kinds: Mapping[str, Kind]
    targets: Mapping[str, int]
    drain_s: float = 30.0
    wait_s: float = 300.0
    """For launched workers to join and stopped ones to be gone; 0: not at all."""
    dry_run: bool = False


async def run_scale(settings: ScaleSettings) -> int:
    """0 when everything asked for was done. Raises `HeadstartError` where an agent does not answer or refuses."""
    console = Console(highlight=False)
    fabric = await RedisFabric.connect(settings.redis_url, PoolId(settings.pool))
    try:
        if fabric.connection.is_cluster and not settings.celery_url:
            raise cluster_refused()
        return await _scale(settings, fabric, console)
    finally:
        await fabric.disconnect()


async def _scale(settings: ScaleSettings, fabric: RedisFabric, console: Console) -> int:
    registry = AgentRegistry.of(fabric)
    agents = await registry.agents()
    if not agents:
        raise ConfigError(f"no agent serves pool {settings.pool}: start `headstart agent` on every host that shall run workers")
    actions = plan_scale(agents, settings.kinds, settings.targets, settings.drain_s)
    for action in actions:
        console.print(describe(action, dry_run=settings.dry_run))
    if not actions:
        console.print("nothing to do: " + ", ".join(f"{count} {name}" for name, count in settings.targets.items()))
    if not settings.dry_run:
        await _carry_out(settings, actions)
        if settings.wait_s:
            await _wait(settings, fabric, registry, actions, console)
    return 1 if any(isinstance(action, NoRoom) for action in actions) else 0


def describe(action: Action, *, dry_run: bool = False) -> str:
    """One line of what is (or would be) done."""
    would = "would " if dry_run else ""
    match action:
        case Launch(agent, spec):
            return f"{would}launch {spec.name} on {agent.host}: {' '.join(spec.options) or 'with defaults'}"
        case Stop(agent, worker) if worker.state in (ManagedState.LEFT, ManagedState.GIVEN_UP):
            return (
                f"{would}clear away {worker.name} on {agent.host}, which is {worker.state.value}: {worker.complaint or 'it left by itself'}"
            )
        case Stop(agent, worker):
            return f"{would}drain {worker.name} on {agent.host}"
        case NoRoom(kind, missing):
            return f"no host has a place for {missing} more {kind}: add devices or hosts, or start another agent"


async def _carry_out(settings: ScaleSettings, actions: list[Action]) -> None:
    client = AgentClient(broker_url(settings.redis_url, settings.celery_url))
    try:
        for action in actions:
            if isinstance(action, Launch):
                await asyncio.to_thread(client.launch, action.agent, action.spec)
            elif isinstance(action, Stop):
                await asyncio.to_thread(client.stop, action.agent, action.worker.name, settings.drain_s)
    finally:
        client.close()


async def _wait(settings: ScaleSettings, fabric: RedisFabric, registry: AgentRegistry, actions: list[Action], console: Console) -> None:
    """Until who was launched has joined and who was stopped is gone. Raises `HeadstartError` with what is missing."""
    coming = {action.spec.name for action in actions if isinstance(action, Launch)}
    going = {action.worker.name for action in actions if isinstance(action, Stop)}
    deadline = time.monotonic() + settings.wait_s
    while True:
        agents = await registry.agents()
        _complain_of_given_up(agents, coming)
        joined = {str(member.ref.worker) for member in await fabric.members()}
        kept = {row.name for agent in agents for row in agent.workers}
        missing = [*sorted(coming - joined), *sorted(going & kept)]
        if not missing:
            break
        if time.monotonic() > deadline:
            raise HeadstartError(f"not done after {settings.wait_s:g} s: {', '.join(missing)}; see `headstart top` and the agents' logs")
        await asyncio.sleep(POLL_S)
    if coming or going:
        console.print(f"done: {len(coming)} joined, {len(going)} gone")


def _complain_of_given_up(agents: tuple[AgentInfo, ...], coming: set[str]) -> None:
    for row in (row for agent in agents for row in agent.workers):
        if row.name in coming and row.state is ManagedState.GIVEN_UP:
            raise HeadstartError(f"{row.name} was given up after {row.restarts + 1} crashes in a row: {row.complaint}")
