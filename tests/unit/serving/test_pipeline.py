"""Pipeline parallelism: stages that fit, every token once, and its own bound."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.settings import SchedulerSettings
from scheduler.simulation.serving.figures import Targets, figures
from scheduler.simulation.serving.fluid import pipeline_bound
from scheduler.simulation.serving.hardware import find_gpu
from scheduler.simulation.serving.pipeline import NAME
from scheduler.simulation.serving.plan import ClusterPlan, WorkerPlan
from scheduler.simulation.serving.policies import simulate
from scheduler.simulation.serving.records import Outcome
from scheduler.simulation.serving.stages import cut_into_stages
from scheduler.simulation.serving.trace import Arrival
from scheduler.simulation.serving.world import Serving
from shared.errors import ConfigError
from shared.profile import StepShape
from tests.unit.serving.support import drawn, pair


def ran(plan: ClusterPlan, arrivals: list[Arrival]) -> Outcome:
    return simulate(NAME, Serving(plan, arrivals, SchedulerSettings()))


def test_stages_share_the_layers_by_speed() -> None:
    fast, slow = cut_into_stages(pair())
    assert fast.share + slow.share == 1.0
    assert fast.share > 2 * slow.share
    equal = replace(pair(), workers=(WorkerPlan("gpu", find_gpu("A10"), count=2),))
    first, last = cut_into_stages(equal)
    assert 0.4 < last.share <= first.share, "the last one has the LM head beside its layers"


def test_stages_together_take_as_long_as_one_device() -> None:
    alone = WorkerPlan("gpu", find_gpu("A10"))
    plan = replace(pair(), workers=(replace(alone, count=2),))
    shape = StepShape(256, 256 * 300, 20, 20_000)
    assert sum(stage.step_seconds(shape) for stage in cut_into_stages(plan)) == pytest.approx(
        alone.device(plan.model).step_seconds(shape), rel=1e-6
    )


def test_every_request_gets_every_token_once() -> None:
    arrivals = drawn(40, 0.0)
    outcome = ran(pair(), arrivals)
    assert [record.tokens for record in outcome.requests] == [arrival.output_tokens for arrival in arrivals]
    assert sum(worker.prefill_tokens for worker in outcome.workers) >= 2 * sum(arrival.prompt_tokens for arrival in arrivals) - 200


def test_with_too_little_memory_requests_are_computed_anew_and_all_end() -> None:
    workers = tuple(replace(worker, kv_tokens=2500) for worker in pair().workers)
    plan = replace(pair(), workers=workers, model=replace(pair().model, max_tokens=2000))
    tight = min(stage.kv_tokens for stage in cut_into_stages(plan))
    arrivals = [Arrival(0.0, 300, 400) for _ in range(tight // 300 + 4)]
    outcome = ran(plan, arrivals)
    assert outcome.workers[0].preemptions > 0
    assert all(record.tokens == 400 for record in outcome.requests)


@pytest.mark.parametrize("budget", [128, 512, 2048])
def test_it_stays_below_its_own_bound(budget: int) -> None:
    plan, arrivals = pair(budget=budget), drawn(60, 0.0)
    reached = figures(NAME, ran(plan, arrivals), Targets()).requests_per_s
    assert 0.3 < reached / pipeline_bound(plan, arrivals).requests_per_s <= 1.0


def test_one_worker_is_no_pipeline() -> None:
    with pytest.raises(ConfigError, match="it needs 2"):
        cut_into_stages(replace(pair(), workers=pair().workers[:1]))
