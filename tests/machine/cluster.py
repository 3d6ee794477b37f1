"""The system under attack: a durable server and the roles as processes, each of which can be struck and lives again."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from cli.system import System, SystemPlan, WorkerPlan
from shared.child import Child
from shared.redis_fabric import RedisFabric
from shared.server import EmbeddedServer
from shared.types import PoolId
from tests.machine.disk import SmallDisk
from tests.machine.plan import NETWORK, SERVER, Blow, Fault
from tests.machine.road import RoadProcess
from tests.machine.wall_clock import WallClock

FAKE = ("--engine", "fake", "--kv-mib", "8", "--staging-mib", "32", "--fake-kv-bytes", "4096", "--drain-s", "3")
TORCH = ("--kv-mib", "64", "--staging-mib", "32", "--threads", "1", "--drain-s", "3")
MODEL_NAME = "under-attack"
LIVENESS_S = 2.0
LATE_S = 0.15
HALF = 0.5
HOUR_S = 3600


@dataclass(slots=True)
class Death:
    """A process that ended although nobody struck it."""

    name: str
    code: int | None
    words: str


@dataclass
class Cluster:
    """Two of each role. `async with`; afterwards nothing of it runs."""

    model: Path
    directory: Path
    torch: bool = False
    durable: bool = True
    blows: dict[Blow, int] = field(default_factory=lambda: dict.fromkeys(Blow, 0))
    struck: dict[str, int] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    """By role."""
    deaths: list[Death] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    """Blows that this machine does not allow, and why."""
    _hit: set[str] = field(default_factory=set)
    _watchers: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        self.disk = SmallDisk(self.directory)
        self.disk.mount()
        self.clock = WallClock(self.directory.parent)
        self.server = EmbeddedServer(directory=self.directory, loopback=True, durable=self.durable, executable=self.clock.executable)
        self._stack = AsyncExitStack()
        self._stack.callback(self.disk.unmount)
        self._stack.callback(self.server.stop)
        try:
            await asyncio.to_thread(self.server.start)
            self.road = await self._stack.enter_async_context(RoadProcess.to("127.0.0.1", self.server.port))
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def _start(self) -> None:
        common = TORCH if self.torch else FAKE
        slow = ("1", "3") if self.torch else ("4", "12")
        workers = [
            WorkerPlan(f"{role}-{at}", (*common, "--role", role, "--slowdown", slow[role == "low"]))
            for role in ("high", "low")
            for at in (1, 2)
        ]
        scheduling = ("--liveness-s", str(LIVENESS_S), "--max-crashes", "1000", "--grace-s", "3")
        self.system = System(
            SystemPlan(
                self.model,
                MODEL_NAME,
                tuple(workers),
                self.server.url.replace(f":{self.server.port}/", f":{self.road.port}/"),
                ports=(0, 0),
                schedulers=2,
                scheduler_options=scheduling,
                echo=False,
            )
        )
        await self._stack.enter_async_context(self.system)
        self._watchers = [asyncio.create_task(self._watch(child)) for child in self.system.children]

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        await self._stack.aclose()

    @property
    def targets(self) -> tuple[str, ...]:
        return (SERVER, NETWORK, *(child.name for child in self.system.children))

    async def fabric(self) -> RedisFabric:
        return await RedisFabric.connect(self.server.url, PoolId(self.system.plan.pool))

    def pids(self) -> dict[str, int]:
        """Of everybody who lives."""
        found = {child.name: child.process.pid for child in self.system.children if child.process and child.running}
        return found | ({SERVER: self.server.pid} if self.server.pid else {})

    async def strike(self, fault: Fault) -> None:
        """Returns when the target lives again."""
        self.blows[fault.blow] += 1
        self.struck[fault.target] = self.struck.get(fault.target, 0) + 1
        if fault.blow is Blow.KILL:
            self.kills[fault.target.partition("-")[0]] += 1
        if fault.target == SERVER:
            await self._strike_server(fault)
            return
        if fault.target == NETWORK:
            await self._strike_network(fault)
            return
        child = next(child for child in self.system.children if child.name == fault.target)
        self._hit.add(child.name)
        try:
            await _strike(child, fault)
        finally:
            self._hit.discard(child.name)

    async def _strike_server(self, fault: Fault) -> None:
        match fault.blow:
            case Blow.FILL:
                await self._fill_disk(fault.seconds)
            case Blow.FORWARD | Blow.BACK:
                await self._set_clock(HOUR_S if fault.blow is Blow.FORWARD else -HOUR_S, fault.seconds)
            case _:
                await self._kill_server(fault.seconds)

    async def _set_clock(self, ahead_s: int, seconds: float) -> None:
        if self.clock.why_not:
            self.skipped.append(f"no clock jumped: {self.clock.why_not}")
            return
        self.clock.set(ahead_s)
        await asyncio.sleep(seconds)
        self.clock.set(0)

    async def _kill_server(self, away_s: float) -> None:
        pid = self.server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(away_s)
        await asyncio.to_thread(self.server.stop)
        await asyncio.to_thread(self.server.start)

    async def _fill_disk(self, seconds: float) -> None:
        """A server that must write at once ends when it cannot; one that writes each second refuses writes until it can."""
        if self.disk.why_not:
            self.skipped.append(f"no disk was filled: {self.disk.why_not}")
            return
        await asyncio.to_thread(self.disk.fill)
        await asyncio.sleep(seconds)
        self.disk.clear()
        if self.server.ended:
            await asyncio.to_thread(self.server.stop)
            await asyncio.to_thread(self.server.start)

    async def _strike_network(self, fault: Fault) -> None:
        match fault.blow:
            case Blow.CUT:
                await self.road.tell("cut", 1.0, fault.seconds)
            case Blow.CUT_SOME:
                await self.road.tell("cut", HALF, fault.seconds)
            case Blow.HOLD:
                await self.road.tell("hold", fault.seconds)
            case _:
                await self.road.tell("late", LATE_S, fault.seconds)
        await asyncio.sleep(fault.seconds)

    async def _watch(self, child: Child) -> None:
        """Whoever dies by itself is written down, and lives again."""
        while True:
            assert child.process is not None
            code = await child.process.wait()
            if child.name in self._hit:
                await asyncio.sleep(0.05)
                continue
            self.deaths.append(Death(child.name, code, await child.last_words()))
            await child.start(echo=False)

    def left_behind(self) -> list[str]:
        """Processes of ours that outlived the end."""
        return [process.name() for process in psutil.Process().children(recursive=True)]


async def _strike(child: Child, fault: Fault) -> None:
    process = child.process
    assert process is not None
    match fault.blow:
        case Blow.STALL:
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(fault.seconds)
            process.send_signal(signal.SIGCONT)
        case Blow.KILL | Blow.LEAVE:
            process.send_signal(signal.SIGKILL if fault.blow is Blow.KILL else signal.SIGTERM)
            await process.wait()
            await asyncio.sleep(fault.seconds)
            await child.start(echo=False)
