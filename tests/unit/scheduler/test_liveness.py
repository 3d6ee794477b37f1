"""Counters on the leader's monotonic clock say who lives. Nothing else does."""

from __future__ import annotations

from scheduler.events import BeginMove, FenceRaised, Forget, Joined, Left, MoveBegun, Place, Reconnected, Requeue
from shared.fabric import FenceAnswer, WriteStatus
from shared.messages import Assign, GatewayBeat
from shared.types import GatewayId, MoveCause
from tests.unit.scheduler.support import FAST, Driver, deeds, info, jobs, of, owned, ref, rid

A = rid("a")


def running() -> Driver:
    d = Driver()
    d.join("fast")
    d.run("a")
    d.report("fast", owned("a"), tokens=0)
    return d


def test_silence_beyond_a_period_is_death_and_its_requests_move() -> None:
    d = running()
    assert deeds(d.tick(2.9)) == []
    assert deeds(d.tick(0.1)) == [BeginMove(A, 1), Forget(ref("fast"))]


def test_a_report_restarts_the_period() -> None:
    d = running()
    d.now += 2.0
    d.report("fast", owned("a"))
    assert deeds(d.tick(2.9)) == []


def test_a_report_whose_counter_is_not_higher_is_no_sign_of_life_and_no_news() -> None:
    d = running()
    d.now += 2.0
    assert deeds(d.report("fast", counter=2, closed=("a",))) == []
    assert deeds(d.tick(1.0)) == [BeginMove(A, 1), Forget(ref("fast"))]


def test_a_worker_that_joins_and_never_speaks_is_dead_after_a_period() -> None:
    d = Driver()
    d.join("fast")
    assert deeds(d.tick(3.0)) == [Forget(ref("fast"))]


def test_only_a_tick_judges_so_that_a_leader_that_was_paused_hears_first_what_waits_for_it() -> None:
    d = running()
    d.now += 60.0
    assert deeds(d.report("fast", owned("a"))) == []
    assert deeds(d.tick()) == []


def test_reconnecting_restarts_every_period() -> None:
    d = running()
    d.known("b", background=False, gateway="g")
    d.known("c", background=False)
    d.now += 9.0
    d.send(Reconnected())
    assert deeds(d.tick(2.9)) == []
    d.report("fast", owned("a"))
    d.send(GatewayBeat(GatewayId("g"), 1))
    assert deeds(d.tick(2.9)) == []


def test_a_crash_is_counted_for_what_ran_there() -> None:
    d = running()
    d.tick(3.0)
    (request,) = d.requests()
    assert (request.crashes, request.cause) == (1, MoveCause.CRASH)


def test_a_new_incarnation_declares_the_older_one_dead_at_once() -> None:
    d = running()
    assert deeds(d.join("fast", incarnation="2")) == [BeginMove(A, 1), Forget(ref("fast"))]


def test_a_repeated_join_changes_nothing_and_a_replaced_incarnation_never_comes_back() -> None:
    d = running()
    assert deeds(d.join("fast")) == []
    d.join("fast", incarnation="2")
    assert deeds(d.send(Joined(info("fast", FAST)))) == []
    assert deeds(d.report("fast", tokens=512)) == []
    assert "workers 1: 1 own" in repr(d.core)


def test_a_worker_that_was_declared_dead_and_speaks_again_is_used_again() -> None:
    d = running()
    d.tick(3.0)
    d.move_on("a")
    (assign,) = jobs(d.report("fast", tokens=512), Assign)
    assert assign.attempt == 2


def test_a_worker_that_left_does_not_come_back_by_a_late_report() -> None:
    d = Driver()
    d.join("fast")
    d.known("a")
    d.send(Left(ref("fast")))
    assert deeds(d.report("fast", tokens=512)) == []


def test_a_placement_whose_target_dies_unanswered_is_moved_without_counting_a_crash() -> None:
    """Nobody knows whether it took effect: begin_move accepts both."""
    d = Driver()
    d.join("fast")
    d.known("a")
    (place,) = of(d.report("fast", tokens=512), Place)
    assert deeds(d.join("fast", incarnation="2")) == [BeginMove(A, 1), Forget(ref("fast"))]
    assert deeds(d.answer(place)) == [], "the answer comes too late to matter"
    d.send(MoveBegun(A, 1, WriteStatus.DONE))
    d.move_on("a")
    (request,) = d.requests()
    assert (request.attempt, request.crashes) == (2, 0)


def test_the_cause_of_a_move_is_in_the_requeue() -> None:
    d = running()
    d.tick(3.0)
    d.send(MoveBegun(A, 1, WriteStatus.DONE))
    commands = d.send(FenceRaised(A, 2, FenceAnswer(WriteStatus.DONE, 3)))
    assert deeds(commands) == [Requeue(A, 2, 203, MoveCause.CRASH)]
