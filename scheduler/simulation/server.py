"""The message server under the virtual clock: it can go away, come back, and have its wall clock stepped."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from scheduler.simulation.steps import Fault, Step
from shared.clock import ManualClock

if TYPE_CHECKING:
    from scheduler.simulation.world import World


HOUR_S = 3600.0


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
    """Whether it answers. Restarted in durable mode it has lost nothing but its connections."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.clock = ServerClock(world.clock)
        self.up = True
        self._waiting: list[Callable[[], None]] = []

    def meets_a_write(self) -> bool:
        """True if the write reaches the data."""
        fault = self._world.plan.strike(Step.SERVER)
        if fault is not None and self.up:
            self._go_away(self._world.rng.uniform(0.3, 8.0) if fault is Fault.AWAY else self._world.rng.uniform(0.1, 0.6))
        return self.up

    def step_clock(self, fault: Fault) -> None:
        step = HOUR_S if fault in (Fault.HOUR_FORWARD, Fault.HOUR_BACK) else self._world.rng.uniform(5.0, 60.0)
        self.clock.skew_s += step if fault in (Fault.FORWARD, Fault.HOUR_FORWARD) else -step
        self._world.tell("server", "has its clock stepped to", self.clock.skew_s)

    def when_back(self, action: Callable[[], None]) -> None:
        self._waiting.append(action)

    def _go_away(self, seconds: float) -> None:
        self.up = False
        self._world.tell("server", "is away for seconds", seconds)
        self._world.after(seconds, self._come_back)

    def _come_back(self) -> None:
        self.up = True
        self._world.tell("server", "is back", None)
        waiting, self._waiting = self._waiting, []
        for action in waiting:
            action()
        self._world.server_is_back()
