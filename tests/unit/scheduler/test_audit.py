"""The audit: what should run somewhere and is not listed there was lost on the way."""

from __future__ import annotations

from scheduler.events import BeginMove, Reconnected
from shared.types import JobSeq, MoveCause
from tests.unit.scheduler.support import Driver, deeds, owned, rid

A = rid("a")


def running() -> Driver:
    """Past the leader's first period, in which nobody is judged."""
    d = Driver()
    d.join("fast")
    d.now += 2.0
    d.report("fast")
    d.now += 2.0
    d.run("a")
    return d


def test_a_request_missing_in_two_reports_over_a_second_is_moved() -> None:
    d = running()
    assert deeds(d.report("fast")) == []
    d.now += 1.0
    assert deeds(d.report("fast")) == [BeginMove(A, 1)]
    assert d.requests()[0].cause is MoveCause.LOST_JOB
    assert d.requests()[0].crashes == 0


def test_two_reports_in_quick_succession_are_not_enough() -> None:
    d = running()
    d.report("fast")
    d.now += 0.9
    assert deeds(d.report("fast")) == []


def test_a_report_that_lists_it_in_between_starts_anew() -> None:
    d = running()
    d.report("fast")
    d.now += 0.9
    d.report("fast", owned("a"))
    d.now += 0.9
    assert deeds(d.report("fast")) == []


def test_a_job_that_is_not_accounted_for_yet_is_not_missing() -> None:
    d = running()
    for _ in range(2):
        d.now += 1.4
        assert deeds(d.report("fast", seen=JobSeq(0, 0))) == []


def test_a_job_that_was_never_accounted_for_within_a_period_is_lost() -> None:
    d = running()
    d.now += 2.0
    d.report("fast", seen=JobSeq(0, 0))
    d.now += 1.0
    assert deeds(d.report("fast", seen=JobSeq(0, 0))) == [BeginMove(A, 1)]


def test_listing_it_under_another_attempt_is_not_listing_it() -> None:
    d = running()
    d.report("fast", owned("a", attempt=0))
    d.now += 1.0
    assert BeginMove(A, 1) in deeds(d.report("fast", owned("a", attempt=0)))


def test_after_a_cut_nobody_is_judged_for_a_period() -> None:
    d = running()
    d.send(Reconnected())
    for _ in range(2):
        d.now += 1.4
        assert deeds(d.report("fast")) == []


def test_a_closed_request_is_forgotten() -> None:
    d = running()
    assert deeds(d.report("fast", closed=("a",))) == []
    assert d.requests() == []
