"""The message server under the virtual clock: it can go away, come back, lose its last writes, and have its wall clock stepped."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from scheduler.simulation.steps import Fault, Step
from shared.clock import ManualClock

TOLD = frozenset({Step.WRITE_CREATE_LOG, Step.WRITE_SUBMIT, Step.WRITE_APPEND, Step.WRITE_APPEND_END, Step.WRITE_END, Step.WRITE_CANCEL})
"""Writes that somebody is told of: `Script.durable`."""

if TYPE_CHECKING:
    from scheduler.simulation.world import World


HOUR_S = 3600.0
TAIL = (1, 40)
"""Fewest and most writes of everybody that are lost at once: in a real server's default mode, those of its last second."""


class ServerClock:
    """The world's time, as the server's wall clock shows it: a step moves it, nobody's monotonic clock follows."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.skew_s = 0.0

    def monotonic(self) -> float:
        return self._clock.now

    def wall_ms(self) -> int:
        return int(1000 * (self._clock.now + self.skew_s)) + 100_000_000


class Server:
    """Whether it answers. Restarted, it has lost its connections, and where the schedule says so its last writes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.clock = ServerClock(world.clock)
        self.up = True
        self.losses = 0
        """How often it came back without its last writes."""
        self._waiting: list[Callable[[], None]] = []
        self._kept_at = {
            fault.occurrence - self._tail(fault.occurrence) for fault in world.schedule.faults if fault.fault is Fault.TAIL_LOST
        }
        self._loses = False

    def _tail(self, occurrence: int) -> int:
        return Random(self._world.schedule.seed * 49_979_687 + occurrence).randint(*TAIL)

    def meets_a_write(self) -> bool:
        """True if the write reaches the data."""
        if self._world.plan.met[Step.SERVER] in self._kept_at:
            self._world.fabric.snapshot()
        fault = self._world.plan.strike(Step.SERVER)
        if fault is Fault.TAIL_LOST:
            self._loses = self.up
        if fault is not None and self.up:
            self._go_away(self._world.rng.uniform(0.3, 8.0) if fault is Fault.AWAY else self._world.rng.uniform(0.1, 0.6))
        return self.up

    def took(self, step: Step) -> None:
        """A write had its effect. Where its writer waits until it is safe, it and all before it are."""
        if step in TOLD and self._world.schedule.scenario.waits and self._kept_at:
            self._world.fabric.snapshot()

    def step_clock(self, fault: Fault) -> None:
        step = HOUR_S if fault in (Fault.HOUR_FORWARD, Fault.HOUR_BACK) else self._world.rng.uniform(5.0, 60.0)
        self.clock.skew_s += step if fault in (Fault.FORWARD, Fault.HOUR_FORWARD) else -step
        self._world.tell("server", "has its clock stepped to", self.clock.skew_s)

    def when_back(self, action: Callable[[], None]) -> None:
        self._waiting.append(action)

    def _lose_tail(self) -> None:
        self._loses = False
        self.losses += 1
        self._world.tell("server", "has lost its last writes", None)
        self._world.fabric.return_to_snapshot()
        self._world.oracle.tail_lost()

    def _go_away(self, seconds: float) -> None:
        self.up = False
        self._world.tell("server", "is away for seconds", seconds)
        self._world.after(seconds, self._come_back)

    def _come_back(self) -> None:
        self.up = True
        self._world.tell("server", "is back", None)
        if self._loses:
            self._lose_tail()
        waiting, self._waiting = self._waiting, []
        for action in waiting:
            action()
        self._world.server_is_back()
