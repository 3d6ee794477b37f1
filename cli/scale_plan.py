"""From agents, kinds and wanted numbers to launches and stops: pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shared.messages import AgentInfo, ManagedState, ManagedWorker
from workers.agent.settings import LaunchSpec

WANTED = (ManagedState.RUNNING, ManagedState.BACKING_OFF)
OVER = (ManagedState.LEFT, ManagedState.GIVEN_UP)


@dataclass(frozen=True, slots=True)
class Kind:
    """How workers of one kind are launched."""

    name: str
    options: tuple[str, ...] = ()
    """Of `headstart worker`."""
    devices: tuple[str, ...] = ()
    """On every host, at most one worker of this kind on each; none: accelerators first for `high`, else the CPU."""
    hosts: tuple[str, ...] = ()
    """Where they may run; none: anywhere."""
    model: str = ""
    """Directory on the hosts; empty: the agents' own."""


@dataclass(frozen=True, slots=True)
class Launch:
    agent: AgentInfo
    spec: LaunchSpec


@dataclass(frozen=True, slots=True)
class Stop:
    agent: AgentInfo
    worker: ManagedWorker


@dataclass(frozen=True, slots=True)
class NoRoom:
    """So many workers of a kind that no host has a place for."""

    kind: str
    missing: int


Action = Launch | Stop | NoRoom


@dataclass(slots=True)
class _Host:
    """A host while it is planned: what will run there."""

    agent: AgentInfo
    rows: list[ManagedWorker] = field(default_factory=list)


def plan_scale(agents: Sequence[AgentInfo], kinds: Mapping[str, Kind], targets: Mapping[str, int], drain_s: float = 30.0) -> list[Action]:
    """What brings every kind in `targets` to its number. Workers that left or were given up are cleared away and count for nothing."""
    hosts = [_Host(agent, [row for row in agent.workers if row.state in WANTED]) for agent in agents]
    actions: list[Action] = [Stop(agent, row) for agent in agents for row in agent.workers if row.state in OVER and row.kind in targets]
    for name, target in targets.items():
        actions += _reach(hosts, kinds[name], target, drain_s)
    return actions


def _reach(hosts: list[_Host], kind: Kind, target: int, drain_s: float) -> list[Action]:
    running = sum(row.kind == kind.name for host in hosts for row in host.rows)
    actions: list[Action] = [_stop_one(hosts, kind) for _ in range(running - target)]
    for missing in range(target - running, 0, -1):
        launch = _launch_one(hosts, kind, drain_s)
        if launch is None:
            return [*actions, NoRoom(kind.name, missing)]
        actions.append(launch)
    return actions


def _stop_one(hosts: list[_Host], kind: Kind) -> Stop:
    """The newest on the fullest host."""
    host = max((host for host in hosts if _of(host, kind)), key=lambda host: (len(host.rows), host.agent.host))
    row = max(_of(host, kind), key=lambda row: (_number(row.name), row.name))
    host.rows.remove(row)
    return Stop(host.agent, row)


def _launch_one(hosts: list[_Host], kind: Kind, drain_s: float) -> Launch | None:
    """On the emptiest host that may run the kind and has a device for it."""
    places = [(len(host.rows), host.agent.host, host, device) for host in hosts if (device := _device(host, kind)) is not None]
    if not places:
        return None
    _, _, host, device = min(places, key=lambda place: place[:2])
    options = (*(("--device", device) if device else ()), *kind.options)
    spec = LaunchSpec(_free_name(host, kind), kind.name, options, kind.model, drain_s)
    host.rows.append(ManagedWorker(spec.name, kind.name, ManagedState.RUNNING, options=options))
    return Launch(host.agent, spec)


def _device(host: _Host, kind: Kind) -> str | None:
    """A free device of this host; empty where the kind's own options name one; None: no place here."""
    if kind.hosts and host.agent.host not in kind.hosts:
        return None
    if "--device" in kind.options:
        return ""
    taken = {device for row in host.rows if (device := device_of(row.options))}
    if kind.devices:
        return next((device for device in kind.devices if device not in taken), None)
    accelerators = host.agent.accelerators if kind.name == "high" else ()
    return next((device for device in accelerators if device not in taken), "cpu")


def device_of(options: Sequence[str]) -> str:
    """What a worker's options name as its device; empty if nothing."""
    return next((after for option, after in itertools.pairwise(options) if option == "--device"), "")


def _of(host: _Host, kind: Kind) -> list[ManagedWorker]:
    return [row for row in host.rows if row.kind == kind.name]


def _free_name(host: _Host, kind: Kind) -> str:
    """Also not that of one that is still draining."""
    names = {row.name for row in (*host.rows, *host.agent.workers)}
    numbers = range(1, len(names) + 2)
    return next(name for number in numbers if (name := f"{host.agent.host}-{kind.name}-{number}") not in names)


def _number(name: str) -> int:
    found = re.search(r"(\d+)$", name)
    return int(found[1]) if found else 0
