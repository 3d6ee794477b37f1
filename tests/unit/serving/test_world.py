"""A trace is served to its end, by the cores themselves, whatever the policy; and the same seed gives the same bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.policies import POLICIES
from scheduler.simulation.serving.figures import Targets, figures, table
from scheduler.simulation.serving.fluid import fluid_bound
from scheduler.simulation.serving.hardware import find_gpu, find_model
from scheduler.simulation.serving.plan import ClusterPlan, WorkerPlan
from tests.unit.serving.support import drawn, pair, served


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_request_gets_every_token_once(policy: str) -> None:
    arrivals = drawn(25, 0.0)
    world = served(pair(), arrivals, policy)
    assert [record.tokens for record in world.requests] == [arrival.output_tokens for arrival in arrivals]
    assert all(record.ended_at is not None and record.ttft_s > 0 for record in world.requests)


@pytest.mark.parametrize("budget", [128, 512, 2048])
@pytest.mark.parametrize("policy", sorted(set(POLICIES) - {"fixed-cut"}))
def test_nobody_beats_the_fluid_bound(policy: str, budget: int) -> None:
    arrivals = drawn(40, 0.0)
    plan = pair(budget=budget)
    reached = figures(policy, served(plan, arrivals, policy).outcome(), Targets())
    assert 0.05 < reached.requests_per_s / fluid_bound(plan, arrivals).requests_per_s <= 1.0


def test_the_same_seed_is_the_same_run_to_the_byte() -> None:
    runs = [table([figures("p", served(pair(), drawn(20, 8.0, seed=3), seed=4).outcome(), Targets())], 1.0) for _ in range(2)]
    assert runs[0] == runs[1]


def test_head_starts_are_given_under_load_and_not_without() -> None:
    busy = figures("p", served(pair(), drawn(40, 0.0)).outcome(), Targets())
    idle = figures("p", served(pair(), drawn(10, 0.2)).outcome(), Targets())
    assert busy.head_start > 0.03
    assert busy.gigabytes_moved > 0
    assert idle.head_start == 0


def test_disaggregation_puts_prefill_and_decode_where_its_name_says() -> None:
    for policy, prefills, decodes in (("disagg-low-high", "low", "high"), ("disagg-high-low", "high", "low")):
        records = {worker.record.name: worker.record for worker in served(pair(), drawn(15, 0.0), policy).workers}
        assert records[prefills].decode_tokens == 0
        assert records[prefills].prefill_tokens > 5 * records[decodes].prefill_tokens
        assert records[decodes].decode_tokens > 0


def test_equal_workers_share_equally_whatever_data_parallel_policy() -> None:
    two = ClusterPlan("two", find_model("llama-3-8b"), (WorkerPlan("gpu", find_gpu("A100-80G-SXM"), count=2),))
    for policy in ("data-parallel-round-robin", "data-parallel-weighted", "data-parallel-least-work"):
        owners = [record.owner for record in served(two, drawn(30, 0.0), policy).requests]
        assert abs(owners.count("gpu-0") - owners.count("gpu-1")) <= 2, policy


def test_a_faster_link_moves_the_same_bytes_sooner() -> None:
    slow = served(replace(pair(), link_bytes_per_s=0.2e9), drawn(30, 0.0))
    fast = served(replace(pair(), link_bytes_per_s=50e9), drawn(30, 0.0))
    assert fast.agenda.now < slow.agenda.now
