"""Who owns and who assists: by measured speed, unless an operator has settled it."""

from __future__ import annotations

import pytest

from scheduler.backlog import Backlog
from scheduler.policies import make_policy
from scheduler.settings import SchedulerSettings
from scheduler.view import Amount, ClusterView, Roles, WorkerView
from tests.unit.scheduler.support import FAST, ref

ROOM = Amount(512, 100, 8)


def worker(name: str, speed: float, role: str = "") -> WorkerView:
    return WorkerView(ref(name), FAST, b"layout", 16, 1000, 8192, 512, True, ROOM, 0, 0, (), speed, role=role)


def owners(*workers: WorkerView) -> set[str]:
    view = ClusterView({one.ref: one for one in workers}, Backlog(64), Roles())
    roles = make_policy(SchedulerSettings()).classify(view)
    assert roles.owners | roles.assistants == {one.ref for one in workers}
    assert not roles.owners & roles.assistants
    return {str(one.worker) for one in roles.owners}


def test_those_near_the_fastest_own() -> None:
    assert owners(worker("a", 100.0), worker("b", 71.0), worker("c", 69.0)) == {"a", "b"}


@pytest.mark.parametrize(("low", "high"), [(100.0, 100.0), (300.0, 100.0)])
def test_who_is_said_to_be_low_end_gives_head_starts_however_fast(low: float, high: float) -> None:
    assert owners(worker("a", low, "low"), worker("b", high), worker("c", high / 4)) == {"b"}


def test_who_is_said_to_be_high_end_owns_however_slow() -> None:
    assert owners(worker("a", 100.0), worker("b", 10.0, "high")) == {"a", "b"}


def test_low_ends_alone_are_not_idle() -> None:
    assert owners(worker("a", 100.0, "low"), worker("b", 10.0, "low")) == {"a"}
