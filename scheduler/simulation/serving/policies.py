"""What a simulated cluster can be run with: every policy of the scheduler, and pipeline parallelism."""

from __future__ import annotations

from dataclasses import replace

from scheduler.policies import POLICIES
from scheduler.simulation.serving import pipeline
from scheduler.simulation.serving.records import Outcome
from scheduler.simulation.serving.world import Serving, ServingWorld
from shared.errors import ConfigError

SIMULATED = (*sorted(POLICIES), pipeline.NAME)


def simulate(policy: str, serving: Serving) -> Outcome:
    """Serves the whole trace. Raises `ConfigError` for a policy that is not known, or that this cluster cannot run."""
    check_policy(policy)
    if policy == pipeline.NAME:
        stages = pipeline.PipelineWorld(serving)
        stages.run()
        return stages.outcome()
    world = ServingWorld(replace(serving, settings=replace(serving.settings, policy=policy)))
    world.run()
    return world.outcome()


def check_policy(policy: str) -> None:
    if policy not in SIMULATED:
        raise ConfigError(f"--policy {policy}: no scheduler policy goes by that name; choose from {', '.join(SIMULATED)}")
