"""The oracle proves itself: five protocols that look reasonable are each caught, and the real one passes the same seeds."""

from __future__ import annotations

import re

import pytest

from scheduler.simulation.build import Parts
from scheduler.simulation.planted import NoFence, NoStaging, ReleaseBehindJob, ShownBeforeLogged, SplitHandOver
from scheduler.simulation.run import run_seeds

SEEDS = range(200)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("bug", "complaint"),
    [
        (NoFence, "below its fence"),
        (SplitHandOver, "is owned by|queued -> finished"),
        (ReleaseBehindJob, "never came to rest"),
        (ShownBeforeLogged, "was shown"),
        (NoStaging, "wrong tokens"),
    ],
)
def test_each_planted_bug_is_found(bug: type[Parts], complaint: str) -> None:
    found = run_seeds(SEEDS, bug(), stop_at_first=True)
    assert found.failures, f"{bug.__name__} went unseen in {found.schedules} schedules"
    assert re.search(complaint, found.failures[0].why)
    sound = run_seeds([found.failures[0].seed])
    assert not sound.failures
