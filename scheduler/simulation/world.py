"""A small cluster under a virtual clock: real cores, simulated processes, one seeded schedule of faults.

Nothing here waits and nothing here is random but for the seed: the same schedule is the same run, to the byte.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from scheduler.simulation.build import Parts, make_clients
from scheduler.simulation.client import Client, GatewayShell
from scheduler.simulation.faults import FaultPlan, Schedule
from scheduler.simulation.kv_link import Wires
from scheduler.simulation.oracle import Oracle
from scheduler.simulation.process import Process
from scheduler.simulation.scheduler_shell import SchedulerShell
from scheduler.simulation.server import Server
from scheduler.simulation.steps import Step
from scheduler.simulation.worker_shell import WorkerShell
from shared.clock import ManualClock
from shared.messages import Drain
from shared.types import GatewayId, WorkerId

_LONG = re.compile(r"\((\d+(?:, \d+){3})(?:, \d+){12,}\)")
"""A prompt in a line of the trace."""

LIMIT_S = 240.0
"""Virtual seconds after which whatever has not ended is stuck."""
LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class TraceLine:
    at: float
    who: str
    what: str
    thing: object

    def __str__(self) -> str:
        thing = "" if self.thing is None else " " + _LONG.sub(r"(\1, ...)", repr(self.thing))
        return f"{self.at:10.4f}  {self.who:<15} {self.what}{thing}"


class World:
    """Build it, `run` it, ask `oracle` and `plan`. `parts` makes the cores, so that a bug can be planted."""

    def __init__(self, schedule: Schedule, parts: Parts | None = None) -> None:
        self.schedule = schedule
        self.parts = parts or Parts()
        self.clock = ManualClock()
        self.rng = Random(schedule.seed * 7919 + 1)
        self.plan = FaultPlan(schedule)
        self.trace: list[TraceLine] = []
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._names = 0
        self._done = False
        self.wires: Wires = {}
        self.server = Server(self)
        self.fabric = self.parts.fabric(self.server.clock, self._grew)
        self.oracle = Oracle(self)
        self.workers: list[WorkerShell] = []
        self.schedulers: list[SchedulerShell] = []
        self.gateways: list[GatewayShell] = []
        self.clients: list[Client] = []

    @property
    def now(self) -> float:
        return self.clock.now

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (self.clock.now + seconds, self._count, action))

    def tell(self, who: str, what: str, thing: object) -> None:
        self.trace.append(TraceLine(self.clock.now, who, what, thing))

    def run(self) -> None:
        """Until every request has ended and every worker is idle, or the limit is reached. Oracle errors are raised."""
        self._populate()
        while self._heap and not self._done:
            self._play_next()
        self.oracle.end()

    def advance(self, seconds: float) -> None:
        """Plays what is due within `seconds`, and no more: for tests of the parts."""
        until = self.clock.now + seconds
        while self._heap and self._heap[0][0] <= until:
            self._play_next()
        self.clock.now = until

    def _play_next(self) -> None:
        at, _, action = heapq.heappop(self._heap)
        self.clock.now = max(self.clock.now, at)
        action()

    def _populate(self) -> None:
        scenario = self.schedule.scenario
        for number in range(scenario.schedulers):
            self._start_scheduler(f"scheduler-{number}")
        for number in range(scenario.high_ends):
            self._start_worker(WorkerId(f"high-{number}"))
        for number in range(scenario.low_ends):
            self._start_worker(WorkerId(f"low-{number}"))
        for _ in range(2):
            self._start_gateway()
        for arrival_s, client in make_clients(self):
            self.clients.append(client)
            self.after(arrival_s, client.arrive)
        for _ in range(scenario.drains):
            self.after(self.rng.uniform(0.8, 2.5), self._drain)
        self.after(LOOK_S, self._look)

    def _look(self) -> None:
        if fault := self.plan.strike(Step.CLOCK):
            self.server.step_clock(fault)
        self._done = self.now >= LIMIT_S or self.oracle.settled()
        self.after(LOOK_S, self._look)

    # -- processes start, die, and come back as new incarnations

    def new_name(self) -> str:
        """Incarnations are drawn: their order says nothing of their age."""
        return f"{self.rng.getrandbits(24):06x}"

    def _start_scheduler(self, name: str) -> None:
        shell = self.parts.scheduler(self, name)
        self.schedulers.append(shell)
        shell.start()

    def _start_worker(self, worker: WorkerId) -> None:
        shell = self.parts.worker(self, worker, self.new_name())
        self.workers.append(shell)
        shell.start()

    def _start_gateway(self) -> None:
        shell = GatewayShell(self, GatewayId(f"gateway-{self.new_name()}"))
        self.gateways.append(shell)
        shell.start()
        if self.server.losses:
            shell.verify()

    def processes(self) -> list[Process]:
        return [*self.schedulers, *self.workers, *self.gateways]

    def any_gateway(self) -> GatewayShell:
        return self.rng.choice([gateway for gateway in self.gateways if gateway.alive])

    def killed(self, process: Process) -> None:
        self.oracle.killed(process)
        if isinstance(process, SchedulerShell):
            self.after(self.rng.uniform(0.5, 8.0), lambda: self._start_scheduler(process.name + "'"))
        elif isinstance(process, GatewayShell):
            self._start_gateway()
        elif isinstance(process, WorkerShell):
            self._come_back(process)

    def left(self, worker: WorkerShell) -> None:
        self._come_back(worker)

    def _come_back(self, worker: WorkerShell) -> None:
        others = any(shell.alive for shell in self.workers)
        if self.schedule.scenario.restarts or not others:
            self.after(self.rng.uniform(0.2, 6.0), lambda: self._start_worker(worker.ref.worker))

    def stalled(self, process: Process, seconds: float) -> None:
        self.oracle.stalled(process, seconds)
        if isinstance(process, WorkerShell) and seconds > 4.0 and self.rng.random() < 0.3:
            # Somebody takes it for dead and starts another: two incarnations of one worker live at once.
            self.after(3.5, lambda: self._start_worker(process.ref.worker))

    def _drain(self) -> None:
        worker = self.rng.choice([shell for shell in self.workers if shell.alive] or self.workers)
        self.tell("operator", "drains", worker.ref)
        self.fabric.tell_worker(worker.ref, Drain(self.rng.choice((0.0, 0.3, 5.0))))

    # -- the server's news

    def _grew(self, stream: str, key: str) -> None:
        if stream == "log":
            for gateway in self.gateways:
                gateway.log_grew(key)  # type: ignore[arg-type]
        elif stream in ("events", "submit"):
            for scheduler in self.schedulers:
                scheduler.wake_readers()
        else:
            for worker in self.workers:
                if worker.name == key:
                    (worker.jobs if stream == "jobs" else worker.control).wake()

    def server_is_back(self) -> None:
        if self.server.losses:
            for gateway in self.gateways:
                gateway.verify()
        for scheduler in self.schedulers:
            scheduler.back()
