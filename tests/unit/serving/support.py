"""Small clusters and traces."""

from __future__ import annotations

from random import Random

from scheduler.settings import SchedulerSettings
from scheduler.simulation.serving.hardware import find_gpu, find_model
from scheduler.simulation.serving.plan import ClusterPlan, WorkerPlan
from scheduler.simulation.serving.trace import Arrival
from scheduler.simulation.serving.world import Serving, ServingWorld


def pair(low: str = "A10", high: str = "A100-80G-SXM", budget: int = 512) -> ClusterPlan:
    workers = (WorkerPlan("high", find_gpu(high)), WorkerPlan("low", find_gpu(low)))
    return ClusterPlan("pair", find_model("llama-3-8b"), workers, token_budget=budget)


def drawn(count: int, per_s: float, seed: int = 0) -> list[Arrival]:
    """Poisson arrivals with prompts of some hundred tokens; 0: all at once."""
    rng, now, out = Random(seed), 0.0, []
    for _ in range(count):
        out.append(Arrival(now, rng.randint(1, 1500), rng.randint(1, 60)))
        now += rng.expovariate(per_s) if per_s else 0.0
    return out


def served(plan: ClusterPlan, arrivals: list[Arrival], policy: str = "headstart", seed: int = 0) -> ServingWorld:
    """A world that has run."""
    world = ServingWorld(Serving(plan, arrivals, SchedulerSettings(policy=policy, max_waiting=10**6, max_assists=16), seed))
    world.run()
    return world
