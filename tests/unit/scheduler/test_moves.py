"""From one owner to the next: begin_move, fence, requeue; every answer is handled by name."""

from __future__ import annotations

import pytest

from scheduler.events import (
    BeginMove,
    Close,
    EndWritten,
    FenceRaised,
    Known,
    MoveBegun,
    RaiseFence,
    RecordClosed,
    Requeue,
    Requeued,
    Reread,
    SchedulerCommand,
    WriteEnd,
)
from shared.fabric import FenceAnswer, WriteStatus
from shared.messages import Assign, Returned, Revoke
from shared.types import MoveCause, Phase, WorkerRef
from tests.unit.scheduler.support import Driver, deeds, jobs, owned, record, ref, rid, submission, told

A = rid("a")
DONE = WriteStatus.DONE


def moving() -> Driver:
    """Request a is MOVING because its owner handed it back; the owner lives."""
    d = Driver()
    d.join("fast")
    d.run("a")
    assert deeds(d.report("fast", Returned(A, 1, "step failed"))) == [BeginMove(A, 1)]
    return d


def fenced(d: Driver, next_index: int = 0, ended: Phase | None = None, status: WriteStatus = DONE) -> list[SchedulerCommand]:
    return deeds(d.send(FenceRaised(A, 2, FenceAnswer(status, next_index, ended))))


def begun(d: Driver, status: WriteStatus = DONE) -> list[SchedulerCommand]:
    return deeds(d.send(MoveBegun(A, 1, status)))


def test_a_returned_request_is_moved_revoked_and_placed_again_under_the_next_attempt() -> None:
    d = moving()
    assert begun(d) == [RaiseFence(A, 2)]
    commands = fenced(d, next_index=7)
    assert told(commands) == [("fast", Revoke(A, 2))]
    assert commands[-1] == Requeue(A, 2, 207, MoveCause.RETURNED)
    d.send(Requeued(A, 2, 207, DONE))
    (assign,) = jobs(d.report("fast", tokens=512), Assign)
    assert (assign.attempt, assign.num_tokens) == (2, 207)


def test_a_log_that_has_ended_is_closed_and_not_handed_over() -> None:
    d = moving()
    begun(d)
    assert fenced(d, 64, Phase.FINISHED) == [Close(A, 2, Phase.FINISHED)]
    d.send(RecordClosed(A, DONE))
    assert "waiting 0 | running 0 | writes 0" in repr(d.core)


def test_a_request_keeps_its_place_in_the_line_when_it_moves() -> None:
    d = moving()
    d.known("b")
    begun(d)
    fenced(d)
    d.send(Requeued(A, 2, 200, DONE))
    assert [job.request_id for job in jobs(d.report("fast", tokens=512), Assign)] == ["a", "b"]


def test_every_step_is_repeated_until_it_is_answered() -> None:
    d = moving()
    assert deeds(d.tick(1.0)) == [BeginMove(A, 1)]
    begun(d)
    assert deeds(d.tick(1.0)) == [RaiseFence(A, 2)]
    fenced(d)
    assert [c for c in deeds(d.tick(1.0)) if isinstance(c, Requeue)] == [Requeue(A, 2, 200, MoveCause.RETURNED)]


@pytest.mark.parametrize("status", [WriteStatus.ENDED, WriteStatus.MISSING])
def test_a_request_that_is_gone_is_forgotten_at_each_step(status: WriteStatus) -> None:
    for depth in range(2):
        d = moving()
        if depth == 0:
            begun(d, status)
        else:
            begun(d)
            fenced(d)
            d.send(Requeued(A, 2, 200, status))
        assert "waiting 0 | running 0 | writes 0" in repr(d.core)


@pytest.mark.parametrize("status", [WriteStatus.SUPERSEDED, WriteStatus.GAP])
def test_a_step_that_was_superseded_reads_the_record_again(status: WriteStatus) -> None:
    assert begun(moving(), status) == [Reread(A)]
    d = moving()
    begun(d)
    assert fenced(d, status=status) == [Reread(A)]
    d = moving()
    begun(d)
    fenced(d)
    assert deeds(d.send(Requeued(A, 2, 200, status))) == [Reread(A)]


def test_a_move_that_finds_the_request_cancelled_ends_it() -> None:
    d = moving()
    assert begun(d, WriteStatus.CANCELLED) == [RaiseFence(A, 2)]
    assert fenced(d)[-1] == WriteEnd(A, 2, Phase.CANCELLED)


def test_a_requeue_that_finds_the_request_cancelled_ends_it() -> None:
    d = moving()
    begun(d)
    fenced(d)
    assert deeds(d.send(Requeued(A, 2, 200, WriteStatus.CANCELLED))) == [WriteEnd(A, 2, Phase.CANCELLED)]


def test_a_request_whose_log_the_server_lost_fails() -> None:
    d = moving()
    begun(d)
    assert fenced(d, status=WriteStatus.MISSING) == [Close(A, 2, Phase.FAILED)]


def test_an_end_that_somebody_else_wrote_first_is_asked_for_and_kept() -> None:
    d = moving()
    d.known("a", cancel_asked=True)
    begun(d)
    fenced(d)
    assert deeds(d.send(EndWritten(A, 2, WriteStatus.ENDED))) == [RaiseFence(A, 2)]
    assert fenced(d, 64, Phase.FINISHED) == [Close(A, 2, Phase.FINISHED)]


@pytest.mark.parametrize(
    ("status", "commands"), [(WriteStatus.MISSING, [Close(A, 2, Phase.FAILED)]), (WriteStatus.SUPERSEDED, [Reread(A)])]
)
def test_an_end_that_was_refused(status: WriteStatus, commands: list[SchedulerCommand]) -> None:
    d = moving()
    d.known("a", cancel_asked=True)
    begun(d)
    fenced(d)
    assert deeds(d.send(EndWritten(A, 2, status))) == commands


def test_a_close_that_was_superseded_reads_the_record_again_and_then_goes_on_from_there() -> None:
    d = moving()
    begun(d)
    fenced(d, 64, Phase.FINISHED)
    assert deeds(d.send(RecordClosed(A, WriteStatus.SUPERSEDED))) == [Reread(A)]
    assert deeds(d.send(Known(record(submission("a"), Phase.MOVING, 2)))) == [RaiseFence(A, 3)]


def test_a_second_disagreement_waits_before_it_reads_again() -> None:
    d = moving()
    begun(d, WriteStatus.SUPERSEDED)
    d.send(Known(record(submission("a"), Phase.MOVING, 1)))
    assert fenced(d, status=WriteStatus.SUPERSEDED) == []
    assert deeds(d.tick(1.0)) == [Reread(A)]


@pytest.mark.parametrize(
    ("phase", "owner", "expected"),
    [
        (Phase.QUEUED, None, "waiting 1 | running 0 | writes 0"),
        (Phase.RUNNING, ref("fast"), "waiting 0 | running 1 | writes 0"),
        (Phase.MOVING, None, "waiting 0 | running 0 | writes 1"),
        (Phase.FINISHED, None, "waiting 0 | running 0 | writes 0"),
    ],
)
def test_what_the_record_says_when_read_again_holds(phase: Phase, owner: WorkerRef | None, expected: str) -> None:
    d = moving()
    begun(d, WriteStatus.SUPERSEDED)
    d.send(Known(record(submission("a"), phase, 2, owner)))
    assert expected in repr(d.core)


def test_a_record_that_is_not_there_when_read_again_is_forgotten() -> None:
    d = moving()
    begun(d, WriteStatus.SUPERSEDED)
    d.send(RecordClosed(A, WriteStatus.MISSING))
    assert "writes 0" in repr(d.core)


def test_answers_for_a_request_that_has_moved_on_are_ignored() -> None:
    d = moving()
    begun(d)
    assert begun(d) == []
    assert deeds(d.send(FenceRaised(A, 3, FenceAnswer(DONE)))) == []
    fenced(d)
    assert fenced(d) == []
    d.send(Requeued(A, 2, 200, DONE))
    for late in (Requeued(A, 2, 200, DONE), EndWritten(A, 2, DONE), MoveBegun(A, 2, DONE), FenceRaised(A, 2, FenceAnswer(DONE))):
        assert deeds(d.send(late)) == []
    assert "waiting 1" in repr(d.core)


def test_a_worker_that_lists_a_request_under_an_old_attempt_gets_a_revoke_until_it_does_not() -> None:
    d = moving()
    begun(d)
    fenced(d)
    d.send(Requeued(A, 2, 200, DONE))
    assert told(d.report("fast", owned("a", 1))) == [], "it was told a moment ago"
    d.now += 1.0
    assert told(d.report("fast", owned("a", 1))) == [("fast", Revoke(A, 2))]
    d.now += 1.0
    assert told(d.report("fast", Returned(A, 1, "step failed"))) == [("fast", Revoke(A, 2))]
    d.now += 1.0
    assert told(d.report("fast")) == []


def test_a_dead_incarnation_that_speaks_on_gets_a_revoke() -> None:
    d = Driver()
    d.join("fast")
    d.run("a")
    d.join("fast", incarnation="2")
    d.move_on("a")
    assert told(d.report("fast", owned("a", 1))) == [("fast", Revoke(A, 2))]


def test_a_request_that_has_ended_and_is_still_listed_after_a_period_gets_a_revoke() -> None:
    d = Driver()
    d.join("fast")
    d.tick(3.0)
    assert told(d.report("fast", owned("ghost", 4))) == []
    d.now += 2.9
    assert told(d.report("fast", owned("ghost", 4))) == []
    d.now += 0.1
    assert told(d.report("fast", owned("ghost", 4))) == [("fast", Revoke(rid("ghost"), 5))]
