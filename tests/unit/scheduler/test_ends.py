"""Cancel, deadline, dead letter, lost listeners: with an owner and without one."""

from __future__ import annotations

from scheduler.events import (
    BeginMove,
    Close,
    Command,
    EndWritten,
    FenceRaised,
    Left,
    MoveBegun,
    Place,
    RaiseFence,
    RecordClosed,
    Requeue,
    Requeued,
    SchedulerCommand,
    WriteEnd,
)
from shared.fabric import FenceAnswer, WriteStatus
from shared.messages import Cancel, CancelAsked, GatewayBeat, ListenerChange
from shared.types import GatewayId, Phase
from tests.unit.scheduler.support import Driver, deeds, of, owned, ref, rid, stories, told

A = rid("a")
DONE = WriteStatus.DONE
G = GatewayId("g")


def fenced(d: Driver, attempt: int, ended: Phase | None = None) -> list[SchedulerCommand]:
    return deeds(d.send(FenceRaised(A, attempt, FenceAnswer(DONE, 0, ended))))


def test_a_waiting_request_is_cancelled_by_fence_end_and_close() -> None:
    d = Driver()
    d.known("a")
    assert deeds(d.send(CancelAsked(A))) == [RaiseFence(A, 2)]
    assert fenced(d, 2) == [WriteEnd(A, 2, Phase.CANCELLED)]
    assert deeds(d.send(EndWritten(A, 2, DONE))) == [Close(A, 2, Phase.CANCELLED)]
    d.send(RecordClosed(A, DONE))
    assert "waiting 0 | running 0 | writes 0" in repr(d.core)


def test_a_running_request_is_cancelled_by_its_owner() -> None:
    d = Driver()
    d.join("fast")
    d.run("a")
    assert deeds(d.send(CancelAsked(A))) == [Command(ref("fast"), Cancel(A))]
    d.report("fast", closed=("a",))
    assert "running 0" in repr(d.core)


def test_a_cancel_is_repeated_while_reports_list_the_request_and_then_it_is_moved_to_its_end() -> None:
    d = Driver()
    d.join("fast")
    d.run("a")
    d.send(CancelAsked(A))
    assert told(d.report("fast", owned("a"))) == []
    d.now += 1.0
    assert told(d.report("fast", owned("a"))) == [("fast", Cancel(A))]
    d.now += 2.0
    d.report("fast", owned("a"))
    assert deeds(d.tick(2.0)) == [BeginMove(A, 1)]
    d.send(MoveBegun(A, 1, DONE))
    assert fenced(d, 2)[-1] == WriteEnd(A, 2, Phase.CANCELLED)


def test_a_cancel_and_an_end_that_race_are_decided_by_the_log() -> None:
    d = Driver()
    d.known("a")
    d.send(CancelAsked(A))
    assert fenced(d, 2, ended=Phase.FAILED) == [Close(A, 2, Phase.FAILED)]


def test_a_cancel_that_comes_while_a_placement_is_unanswered_reaches_the_owner_after_the_answer() -> None:
    d = Driver()
    d.join("fast")
    d.known("a")
    (place,) = of(d.report("fast", tokens=512), Place)
    assert deeds(d.send(CancelAsked(A))) == []
    assert told(d.answer(place)) == [("fast", Cancel(A))]


def test_a_placement_that_finds_the_request_cancelled_ends_it() -> None:
    d = Driver()
    d.join("fast")
    d.known("a")
    (place,) = of(d.report("fast", tokens=512), Place)
    assert deeds(d.answer(place, WriteStatus.CANCELLED)) == [RaiseFence(A, 2)]
    assert fenced(d, 2) == [WriteEnd(A, 2, Phase.CANCELLED)]


def test_a_cancel_during_a_move_ends_the_request_instead_of_requeuing_it() -> None:
    d = Driver()
    d.join("fast")
    d.run("a")
    d.join("fast", incarnation="2")
    d.send(CancelAsked(A))
    d.send(MoveBegun(A, 1, DONE))
    assert fenced(d, 2) == [WriteEnd(A, 2, Phase.CANCELLED)]


def test_a_cancel_during_a_requeue_ends_the_request_from_the_line() -> None:
    d = Driver()
    d.join("fast")
    d.run("a")
    d.join("fast", incarnation="2")
    d.send(MoveBegun(A, 1, DONE))
    fenced(d, 2)
    assert deeds(d.send(CancelAsked(A))) == []
    assert deeds(d.send(Requeued(A, 2, 200, DONE))) == [RaiseFence(A, 3)]


def test_a_cancel_that_was_asked_before_the_leader_knew_is_in_the_record() -> None:
    assert deeds(Driver().known("a", cancel_asked=True)) == [RaiseFence(A, 2)]


def test_a_cancel_of_an_unknown_request_is_nothing() -> None:
    assert deeds(Driver().send(CancelAsked(A))) == []


def test_a_waiting_request_that_is_late_fails_as_timed_out() -> None:
    d = Driver()
    d.known("a", timeout_s=5.0)
    assert deeds(d.tick(4.9)) == []
    assert deeds(d.tick(0.1)) == [RaiseFence(A, 2)]
    (end,) = fenced(d, 2)
    assert isinstance(end, WriteEnd)
    assert (end.phase, end.code) == (Phase.FAILED, "timeout")


def test_a_running_request_that_is_late_is_failed_by_its_owner() -> None:
    d = Driver()
    d.join("fast")
    d.run("a", timeout_s=2.0)
    assert told(d.tick(2.0)) == [("fast", Cancel(A, "timeout: not finished within 2 s", "timeout"))]


def test_three_crashes_are_a_dead_letter() -> None:
    d = Driver()
    d.join("fast")
    d.run("a", crashes=2)
    assert deeds(d.join("fast", incarnation="2"))[0] == BeginMove(A, 1)
    d.send(MoveBegun(A, 1, DONE))
    (end,) = fenced(d, 2)
    assert isinstance(end, WriteEnd)
    assert (end.phase, end.code) == (Phase.FAILED, "too_many_crashes")


def test_a_leader_that_finds_the_end_of_a_dead_letter_in_the_log_keeps_the_letter() -> None:
    """The one that wrote the end died before its close: the log's end says what the next one has to keep."""
    for code, dead in (("too_many_crashes", True), ("timeout", False)):
        d = Driver()
        d.known("a", Phase.MOVING)
        answer = FenceAnswer(DONE, 0, Phase.FAILED, code)
        assert deeds(d.send(FenceRaised(A, 2, answer))) == [Close(A, 2, Phase.FAILED, dead)]


def test_a_dead_letter_that_had_finished_is_finished() -> None:
    d = Driver()
    d.join("fast")
    d.run("a", crashes=2)
    d.join("fast", incarnation="2")
    d.send(MoveBegun(A, 1, DONE))
    assert fenced(d, 2, ended=Phase.FINISHED) == [Close(A, 2, Phase.FINISHED)]


def test_leaving_in_good_order_counts_no_crash() -> None:
    d = Driver()
    d.join("fast")
    d.run("a", crashes=2)
    assert deeds(d.send(Left(ref("fast")))) == [BeginMove(A, 1)]
    d.send(MoveBegun(A, 1, DONE))
    assert isinstance(fenced(d, 2)[0], Requeue)


def test_a_request_without_a_listener_is_cancelled_after_the_grace_period() -> None:
    d = Driver()
    d.known("a", background=False)
    assert deeds(d.tick(9.9)) == []
    assert deeds(d.tick(0.1)) == [RaiseFence(A, 2)]


def test_a_request_in_the_background_needs_no_listener() -> None:
    d = Driver()
    d.known("a", background=True)
    assert deeds(d.tick(1000.0)) == []


def listen(d: Driver, gateway: str, listening: bool) -> None:
    d.send(ListenerChange(A, GatewayId(gateway), listening))


def test_losing_the_last_listener_starts_a_grace_period_that_any_follower_ends() -> None:
    d = Driver()
    d.known("a", background=False, gateway="g")
    listen(d, "g", False)
    d.tick(9.0)
    listen(d, "other", True)
    assert deeds(d.tick(2.0)) == []
    listen(d, "other", False)
    assert deeds(d.tick(9.9)) == []
    assert deeds(d.tick(0.1)) == [RaiseFence(A, 2)]


def test_one_of_two_listeners_is_enough() -> None:
    d = Driver()
    d.known("a", background=False, gateway="g")
    listen(d, "other", True)
    listen(d, "g", False)
    d.send(GatewayBeat(GatewayId("other"), 1))
    assert deeds(d.tick(12.0)) == []


def test_a_gateway_that_beats_holds_its_listeners_and_one_that_falls_silent_loses_them() -> None:
    d = Driver()
    d.known("a", background=False, gateway="g")
    for counter in range(1, 4):
        d.now += 10.0
        d.send(GatewayBeat(G, counter))
    assert deeds(d.tick(12.9)) == []
    assert deeds(d.tick(0.1)) == [RaiseFence(A, 2)]


def test_a_beat_that_is_not_newer_holds_nothing() -> None:
    d = Driver()
    d.known("a", background=False, gateway="g")
    d.send(GatewayBeat(G, 7))
    d.now += 12.0
    d.send(GatewayBeat(G, 7))
    assert deeds(d.tick(1.0)) == [RaiseFence(A, 2)]


def test_a_listener_that_goes_twice_starts_one_grace_period() -> None:
    d = Driver()
    d.known("a", background=False, gateway="g")
    listen(d, "g", False)
    d.now += 9.0
    listen(d, "g", False)
    assert deeds(d.tick(1.0)) == [RaiseFence(A, 2)]


def test_the_end_of_a_request_is_in_its_story() -> None:
    d = Driver()
    d.known("a")
    assert stories(d.send(CancelAsked(A))) == ["ending"]
