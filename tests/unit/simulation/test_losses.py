"""A simulated server that comes back without its last writes: what is told, what is not, and a leader that would not notice."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from scheduler.core import SchedulerCore
from scheduler.simulation.build import Parts, scheduler_settings
from scheduler.simulation.faults import Schedule, make_schedule
from scheduler.simulation.oracle import Violation
from scheduler.simulation.scheduler_shell import SchedulerShell
from scheduler.simulation.steps import Fault
from scheduler.simulation.world import World

SEEDS = range(600)


def with_losses(*, waits: bool, count: int) -> list[Schedule]:
    schedules = (make_schedule(seed) for seed in SEEDS)
    return [one for one in schedules if one.scenario.waits == waits and any(f.fault is Fault.TAIL_LOST for f in one.faults)][:count]


def played(schedule: Schedule, parts: Parts | None = None) -> World:
    world = World(schedule, parts)
    world.run()
    return world


def test_in_default_mode_what_is_lost_is_named_and_nothing_is_wrong() -> None:
    losses: Counter[str] = Counter()
    for schedule in with_losses(waits=False, count=14):
        losses += played(schedule).oracle.losses
    assert losses["requests unknown"]
    assert losses["streams ended by log_shortened"]
    assert losses["streams ended by request_lost"]


def test_where_every_answer_waits_to_be_safe_nothing_that_was_told_is_lost() -> None:
    worlds = [played(schedule) for schedule in with_losses(waits=True, count=10)]
    assert sum(world.server.losses for world in worlds) >= 3
    assert not sum((world.oracle.losses for world in worlds), Counter())


class _Believer(SchedulerShell):
    """Leads on after the server came back, whatever it has lost."""

    def back(self) -> None:
        self._losses = self.world.server.losses
        super().back()


class _Believing(Parts):
    def scheduler(self, world: World, name: str) -> SchedulerShell:
        return _Believer(world, name, SchedulerCore(scheduler_settings(world.schedule.scenario)))


def test_a_leader_that_believes_on_is_found() -> None:
    with pytest.raises(Violation, match="is stuck"):
        Counter(played(schedule, _Believing()).schedule.seed for schedule in with_losses(waits=False, count=14))


def test_the_same_world_loses_the_same() -> None:
    (schedule,) = with_losses(waits=False, count=1)
    assert [str(line) for line in played(schedule).trace] == [str(line) for line in played(replace(schedule)).trace]
