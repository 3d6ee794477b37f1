"""A new leader knows nothing but what it is told, and waits before it judges."""

from __future__ import annotations

from scheduler.events import BeginMove, Command, Deposed, Elected, Forget, Known, Place, RaiseFence, SchedulerEvent, Tick
from shared.messages import Assign, Cancel, CancelAsked, Credit, Report, WorkerState
from shared.types import JobSeq, Phase
from tests.unit.scheduler.support import SLOW, Driver, deeds, jobs, owned, record, ref, rid, submission

A = rid("a")


def test_before_its_election_and_after_its_deposition_it_decides_nothing() -> None:
    d = Driver(elected=False)
    silent: list[SchedulerEvent] = [
        Known(record(submission("a"))),
        Tick(),
        CancelAsked(A),
        Report(ref("fast"), 1, WorkerState.READY, JobSeq(0, 0), Credit(512, 500, 16)),
    ]
    assert [command for event in silent for command in d.send(event)] == []
    d.send(Elected(1))
    d.join("fast")
    d.known("a")
    d.send(Deposed())
    assert [command for event in silent for command in d.send(event)] == []
    assert "stands by" in repr(d.core)


def test_it_forgets_everything_with_its_office() -> None:
    d = Driver()
    d.known("a")
    d.send(Deposed())
    d.send(Elected(2))
    assert d.requests() == []


def test_an_old_or_repeated_election_is_ignored() -> None:
    d = Driver()
    d.send(Elected(3))
    d.known("a")
    d.send(Elected(3))
    d.send(Elected(2))
    assert len(d.requests()) == 1


def test_job_numbers_count_on_even_if_the_same_epoch_comes_back() -> None:
    d = Driver()
    d.join("fast")
    assert d.run("a").seq == JobSeq(1, 1)
    d.send(Deposed())
    d.send(Elected(1))
    d.join("fast")
    assert d.run("b").seq == JobSeq(1, 2)


def test_what_is_moving_is_finished_first() -> None:
    d = Driver()
    assert deeds(d.known("a", Phase.MOVING, 3)) == [RaiseFence(A, 4)]


def test_a_running_request_waits_for_its_owner_for_one_period() -> None:
    d = Driver()
    assert deeds(d.known("a", Phase.RUNNING, 1, ref("fast"))) == []
    assert deeds(d.tick(2.9)) == []
    assert deeds(d.tick(0.1)) == [BeginMove(A, 1), Forget(ref("fast"))]


def test_an_owner_that_reports_keeps_its_request() -> None:
    d = Driver()
    d.known("a", Phase.RUNNING, 1, ref("fast"))
    d.join("fast")
    for _ in range(5):
        d.now += 1.0
        d.report("fast", owned("a"))
        assert deeds(d.tick()) == []
    d.report("fast", closed=("a",))
    assert d.requests() == []


def test_an_owner_that_reports_without_it_is_judged_only_after_a_period() -> None:
    """Its job may still lie unread in the stream."""
    d = Driver()
    d.known("a", Phase.RUNNING, 1, ref("fast"))
    d.join("fast")
    for _ in range(2):
        d.now += 1.4
        assert deeds(d.report("fast")) == []
    d.now += 1.0
    d.report("fast")
    d.now += 1.0
    assert deeds(d.report("fast")) == [BeginMove(A, 1)]


def test_an_owner_whose_next_incarnation_is_a_member_is_dead_at_once() -> None:
    d = Driver()
    d.known("a", Phase.RUNNING, 1, ref("fast"))
    assert deeds(d.join("fast", incarnation="2")) == [BeginMove(A, 1), Forget(ref("fast"))]


def test_a_member_that_was_not_heard_is_waited_for() -> None:
    """The slow one reports first: it does not own, because the fast one may still speak."""
    d = Driver()
    d.known("a")
    d.join("fast")
    d.join("slow", SLOW)
    assert jobs(d.report("slow", tokens=512), Assign) == []


def test_a_record_that_is_read_twice_is_known_once() -> None:
    d = Driver()
    d.join("fast")
    d.run("a")
    assert deeds(d.known("a")) == []
    assert deeds(d.known("a", Phase.RUNNING, 1, ref("fast"))) == []
    assert len(d.requests()) == 1


def test_a_record_that_has_ended_is_nothing_and_ends_what_was_known() -> None:
    d = Driver()
    d.known("a", Phase.FINISHED)
    assert d.requests() == []
    d.known("b")
    d.known("b", Phase.CANCELLED)
    assert d.requests() == []


def test_a_cancel_that_the_record_knows_reaches_the_owner() -> None:
    d = Driver()
    assert deeds(d.known("a", Phase.RUNNING, 1, ref("fast"), cancel_asked=True)) == [Command(ref("fast"), Cancel(A))]


def test_a_running_record_without_an_owner_is_moved() -> None:
    assert deeds(Driver().known("a", Phase.RUNNING, 1, None)) == [BeginMove(A, 1)]


def test_what_of_a_timeout_has_passed_already_is_counted() -> None:
    d = Driver()
    d.send(Known(record(submission("a", timeout_s=60.0)), age_s=58.0))
    assert deeds(d.tick(1.9)) == []
    assert deeds(d.tick(0.1)) == [RaiseFence(A, 2)]


def test_the_order_of_acceptance_is_the_order_in_which_they_became_known() -> None:
    d = Driver()
    for name in ("a", "b", "c"):
        d.known(name, n=10)
    d.join("fast")
    placed = [command for command in d.report("fast", tokens=512) if isinstance(command, Place)]
    assert [place.job.request_id for place in placed] == ["a", "b", "c"]
