"""What a simulated cluster can be run with: every policy of the scheduler, and pipeline parallelism."""

from __future__ import annotations

from dataclasses import replace

from scheduler.policies import POLICIES
from scheduler.simulation.serving import pipeline
from scheduler.simulation.serving.records import Outcome
from scheduler.simulation.serving.world import Serving, ServingWorld
from shared.errors import ConfigError

OURS = "headstart"
OTHERS_ASSISTS = 16
"""Head starts under way on a worker at once, at most, under every other policy. Ours does worse with this one (by 6 %); cronus has
the two of its paper."""
SIMULATED = (*sorted(POLICIES), pipeline.NAME)


def simulate(policy: str, serving: Serving) -> Outcome:
    """Serves the whole trace. Raises `ConfigError` for a policy that is not known, or that this cluster cannot run."""
    check_policy(policy)
    if policy == pipeline.NAME:
        stages = pipeline.PipelineWorld(serving)
        stages.run()
        return stages.outcome()
    assists = serving.settings.max_assists if policy == OURS else OTHERS_ASSISTS
    world = ServingWorld(replace(serving, settings=replace(serving.settings, policy=policy, max_assists=assists)))
    world.run()
    return world.outcome()


def check_policy(policy: str) -> None:
    if policy not in SIMULATED:
        raise ConfigError(f"--policy {policy}: no scheduler policy goes by that name; choose from {', '.join(SIMULATED)}")
