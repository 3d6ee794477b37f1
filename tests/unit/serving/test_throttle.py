"""A worker that is throttled while it serves is believed to be slower, and work moves; under virtual time, with the cores of both roles."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.settings import SchedulerSettings
from scheduler.simulation.serving.hardware import find_gpu, find_model
from scheduler.simulation.serving.plan import ClusterPlan, WorkerPlan
from scheduler.simulation.serving.trace import Arrival
from scheduler.simulation.serving.world import Serving, ServingWorld

THROTTLED, RELEASED, END = 12.0, 40.0, 66.0
BELIEVED_S = 20.0
PER_S = 6
TWO = ClusterPlan("two", find_model("llama-3-8b"), (WorkerPlan("gpu", find_gpu("A10"), count=2),))


def test_half_the_speed_is_believed_within_twenty_seconds_and_work_moves() -> None:
    arrivals = [Arrival(at / PER_S, 600, 12) for at in range(int(PER_S * END))]
    world = ServingWorld(Serving(TWO, arrivals, SchedulerSettings(policy="data-parallel-least-work", max_waiting=10**6)))
    victim, other = world.workers
    device = victim._device
    world.agenda.at(THROTTLED, lambda: setattr(victim, "_device", replace(device, slowdown=2.0)))
    world.agenda.at(RELEASED, lambda: setattr(victim, "_device", device))
    speeds: list[float] = []

    def look() -> None:
        leadership = world.scheduler._core._leadership
        assert leadership is not None
        views = leadership.state.fleet.views
        speeds.append(views[victim.ref].speed / views[other.ref].speed)

    for at in (THROTTLED, THROTTLED + BELIEVED_S, RELEASED + BELIEVED_S):
        world.agenda.at(at, look)
    world.run()
    assert speeds == [pytest.approx(1.0, abs=0.12), pytest.approx(0.5, abs=0.07), pytest.approx(1.0, abs=0.12)]
    before, slow = share(world, 0.0, THROTTLED), share(world, THROTTLED + BELIEVED_S, RELEASED)
    after = share(world, RELEASED + BELIEVED_S, END)
    assert before == pytest.approx(0.5, abs=0.1)
    assert slow < 0.42
    assert after == pytest.approx(0.5, abs=0.1)


def share(world: ServingWorld, start: float, stop: float) -> float:
    """Of the requests of this time that the victim owned."""
    owners = [record.owner for record in world.requests if start <= record.arrival.at_s < stop]
    return owners.count(world.workers[0].ref.worker) / len(owners)
