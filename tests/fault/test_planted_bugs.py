"""The oracle proves itself: protocols that look reasonable are each caught, and the real one passes the same seeds.

The suite hunts some of them; `make test-fault` all (`python -m scheduler.simulation.mutations`).
"""

from __future__ import annotations

import re

import pytest

from scheduler.simulation import mutations
from scheduler.simulation.build import Parts
from scheduler.simulation.mutations import BOUND, MUTATIONS, Mutation, hunt
from scheduler.simulation.steps import Step

QUICK = (
    "LeaseWithoutOwnership",
    "SplitHandOver",
    "NoIndexCheck",
    "EndOverwritten",
    "ShownBeforeLogged",
    "NoDigestCheck",
    "BadRangeNotRecomputed",
    "ReleaseBehindJob",
    "SharedTenants",
    "SealedBeforeVerified",
)
"""Found within a few schedules."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", QUICK)
def test_each_planted_bug_is_found(name: str) -> None:
    (mutation,) = [each for each in MUTATIONS if each.name == name]
    found = hunt(mutation)
    assert found.seed is not None, f"{name} went unseen in {found.schedules} schedules"
    assert re.search(mutation.complaint, found.why)
    assert found.sound


def test_the_list_names_each_bug_once() -> None:
    assert len({mutation.what for mutation in MUTATIONS}) == len({mutation.parts for mutation in MUTATIONS}) == len(MUTATIONS) >= 10
    assert set(QUICK) <= {mutation.name for mutation in MUTATIONS}


def test_what_is_no_bug_is_not_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The script fails if a bug goes unseen: here, one that is none."""
    harmless = Mutation("nothing at all", Parts, (Step.SERVER,), "never")
    monkeypatch.setattr(mutations, "MUTATIONS", (harmless,))
    monkeypatch.setattr("sys.argv", ["mutations", "--bound", "2"])
    assert mutations.main() == 1
    assert re.search(r"nothing at all +2 +unseen", capsys.readouterr().out)
    assert BOUND >= 100
