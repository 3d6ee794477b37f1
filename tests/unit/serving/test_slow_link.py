"""A link that is slower than its profile says is found out by the pulls over it; under virtual time, with the cores of both roles."""

from __future__ import annotations

import pytest

from scheduler.cost_model import pull_seconds
from scheduler.settings import SchedulerSettings
from scheduler.simulation.serving.hardware import find_gpu, find_model
from scheduler.simulation.serving.plan import ClusterPlan, WorkerPlan
from scheduler.simulation.serving.trace import Arrival
from scheduler.simulation.serving.world import Serving, ServingWorld
from shared.messages import Assign
from shared.types import WorkerRef

PER_S, SLOW_FROM, END = 12, 6.0, 22.0
SLOWER = 60.0
"""What takes 2 ms by the profile takes 0.12 s: as was seen between two throttled workers."""
PLAN = ClusterPlan(
    "three",
    find_model("llama-3-8b"),
    (WorkerPlan("high", find_gpu("A100-80G-SXM")), WorkerPlan("slow", find_gpu("A10")), WorkerPlan("other", find_gpu("A10"))),
)


class Watched(ServingWorld):
    """Notes who every cut came from."""

    cuts: list[tuple[float, str]]

    def assigned(self, job: Assign, worker: WorkerRef) -> None:
        super().assigned(job, worker)
        if job.source is not None and job.source.worker != worker:
            self.cuts.append((self.agenda.now, job.source.worker.worker))

    def of(self, name: str, start: float, stop: float) -> int:
        return sum(1 for at, giver in self.cuts if giver == name and start <= at < stop)

    def believed(self, giver: str, tokens: int) -> float:
        """Seconds that the scheduler expects of a pull by the high-end."""
        leadership = self.scheduler._core._leadership
        assert leadership is not None
        views = {ref.worker: view for ref, view in leadership.state.fleet.views.items()}
        return pull_seconds(views["high"], views[giver], tokens)  # type: ignore[index]


def test_a_slow_pair_is_believed_slow_its_cuts_are_no_longer_worth_it_and_another_pairs_are() -> None:
    arrivals = [Arrival(at / PER_S, 1200, 12) for at in range(int(PER_S * END))]
    world = Watched(Serving(PLAN, arrivals, SchedulerSettings(max_waiting=10**6)))
    world.cuts = []
    slow = next(worker.ref for worker in world.workers if worker.ref.worker == "slow")
    world.agenda.at(SLOW_FROM, lambda: world.links.slower.update({slow: SLOWER}))
    seen: dict[str, list[float]] = {"slow": [], "other": []}

    def look() -> None:
        for name, seconds in seen.items():
            seconds.append(world.believed(name, 1024))

    for at in (SLOW_FROM, END):
        world.agenda.at(at, look)
    world.run()

    told = world.workers[0].info.profile.transfer_seconds(1024)
    assert seen["other"] == pytest.approx([told, told], rel=0.8)
    assert seen["slow"][0] == pytest.approx(told, rel=0.8)
    assert seen["slow"][1] > 4 * told
    assert world.of("slow", 0.0, SLOW_FROM) > 5
    assert world.of("slow", SLOW_FROM + 6, END) < world.of("other", SLOW_FROM + 6, END) / 4
    assert world.of("other", SLOW_FROM + 6, END) > 15
