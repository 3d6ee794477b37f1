"""Schedules of faults, at least one at each point: in each, every request ends right, whatever goes wrong on the way.

The suite plays some three hundred; `make test-fault` plays 10,000 others (`python -m scheduler.simulation --seeds A B`).
"""

from __future__ import annotations

import re

import pytest

from scheduler.simulation.named_steps import NAMED_STEPS, hits
from scheduler.simulation.run import Tally, run_seed, run_seeds
from scheduler.simulation.steps import LOSSES, POINTS, Point, Step

SHARES = 8
ROUNDS = 24
"""Seeds that aim at one point before it counts as never hit; the first or second hits it, nearly always."""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("share", range(SHARES))
def test_every_schedule_ends_well_and_every_point_is_hit(share: int) -> None:
    tally, missed = Tally(), list[str]()
    for number in range(share, len(POINTS), SHARES):
        found = _aim_at(POINTS[number], number)
        missed += [f"{POINTS[number][0].value}: {POINTS[number][1].value}"] if not found.hit[POINTS[number]] else []
        tally.add(found)
    print(tally.table())
    assert not tally.failures, "\n".join(f"python -m scheduler.simulation --seed {f.seed} --verbose  # {f.why}" for f in tally.failures)
    assert not missed
    assert tally.cached_tokens > 500, "the caches of some forty worlds were hardly used"


def _aim_at(point: Point, number: int) -> Tally:
    """Plays the seeds that aim at a point until it is hit."""
    tally = Tally()
    for seed in range(number, number + ROUNDS * len(POINTS), len(POINTS)):
        tally.add(run_seeds([seed]))
        if tally.hit[point] or tally.failures:
            break
    return tally


def test_every_step_of_the_simulator_has_a_name_in_the_protocol() -> None:
    named = {point for points in NAMED_STEPS.values() for point in points}
    assert named == {*POINTS, *LOSSES}
    assert all(NAMED_STEPS.values())


def test_a_named_step_that_was_never_hit_is_reported() -> None:
    tally = run_seeds([0])
    assert set(tally.unnamed) == {name for name, count in hits(tally.hit).items() if count == 0}
    assert len(tally.unnamed) > len(NAMED_STEPS) / 2
    assert re.search(r"fence raised +\d+ faults", tally.table())
    assert Step.WRITE_LEAD in tally.met


def test_a_seed_is_one_story_to_the_byte() -> None:
    for seed in (3, 57):
        first, _ = run_seed(seed)
        again, _ = run_seed(seed)
        assert [str(line) for line in first.trace] == [str(line) for line in again.trace]
        assert len(first.trace) > 100
