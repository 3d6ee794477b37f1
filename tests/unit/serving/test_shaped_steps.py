"""Steps that are counted instead of laid out are the same steps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.simulation.serving import worker_node
from scheduler.simulation.serving.figures import Figures, Targets, figures
from scheduler.simulation.serving.shaped_steps import ShapedPlan
from scheduler.simulation.serving.trace import Arrival
from tests.unit.serving.support import drawn, pair, served
from workers.batching import PlannedStep
from workers.core import WorkerCore
from workers.step_shape import shape_of


class LaidOutCore(WorkerCore):
    """The real core with its real plans, whose shapes are read off their arrays."""

    def _next_step(self) -> PlannedStep | None:
        step = super()._next_step()
        if step is None:
            return None
        plan = step.plan
        arrays = (plan.token_ids, plan.inputs, plan.positions, plan.slots, plan.starts, plan.contexts, plan.block_tables)
        return replace(step, plan=ShapedPlan(plan.step, *arrays, plan.samples, shape_of(plan)))


@pytest.mark.parametrize("policy", ["headstart", "data-parallel-round-robin"])
def test_a_run_with_plans_laid_out_and_blocks_hashed_gives_the_same_figures(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With little memory on the low-end, so that requests are preempted and find their own blocks again."""
    plan = pair()
    tight = replace(plan, workers=(plan.workers[0], replace(plan.workers[1], kv_tokens=3000)))
    arrivals = [*drawn(15, 0.0), *[Arrival(0.0, 150, 300)] * 25]

    def run() -> Figures:
        return figures(policy, served(tight, arrivals, policy).outcome(), Targets())

    quick = run()
    monkeypatch.setattr(worker_node, "ShapedCore", LaidOutCore)
    assert run() == quick
    assert policy == "headstart" or quick.preemptions > 0
