"""The oracle proves itself: protocols that look reasonable are each caught, and the real one passes the same seeds."""

from __future__ import annotations

import re

import pytest

from scheduler.simulation.build import Parts
from scheduler.simulation.planted import (
    NoFence,
    NoStaging,
    ReleaseBehindJob,
    SealedBeforeVerified,
    SharedTenants,
    ShownBeforeLogged,
    SplitHandOver,
)
from scheduler.simulation.run import run_seeds
from scheduler.simulation.steps import POINTS, Step


def seeds_aimed_at(step: Step) -> list[int]:
    return [seed for seed in range(2000) if POINTS[seed % len(POINTS)][0] is step][:40]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("bug", "step", "complaint"),
    [
        (NoFence, Step.WORKER_APPENDED, "below its fence"),
        (SplitHandOver, Step.SCHEDULER_PLACED, "is owned by|queued -> finished"),
        (ReleaseBehindJob, Step.MESSAGE_RELEASE_ASSIST, "never came to rest"),
        (ShownBeforeLogged, Step.WRITE_APPEND, "was shown"),
        (NoStaging, Step.TRANSFER, "wrong tokens"),
        (SharedTenants, Step.WORKER_AFTER_STEP, "written for"),
        (SealedBeforeVerified, Step.TRANSFER, "shared or full"),
    ],
)
def test_each_planted_bug_is_found(bug: type[Parts], step: Step, complaint: str) -> None:
    seeds = seeds_aimed_at(step)
    found = run_seeds(seeds, bug(), stop_at_first=True)
    assert found.failures, f"{bug.__name__} went unseen in {found.schedules} schedules"
    assert re.search(complaint, found.failures[0].why)
    sound = run_seeds(seeds[: found.schedules])
    assert not sound.failures
