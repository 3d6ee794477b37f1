"""Take when free: an owner with credit gets the best waiting request at once, and what is promised is gone."""

from __future__ import annotations

import pytest

from scheduler.events import Place, Reread
from shared.fabric import WriteStatus
from shared.messages import Assign, WorkerState
from shared.types import JobSeq
from tests.unit.scheduler.support import FAST, SLOW, Driver, deeds, jobs, of, owned, ref, rid, stories


def test_a_free_owner_takes_the_waiting_request_at_once() -> None:
    d = Driver()
    d.join("fast")
    d.known("a", n=200)
    commands = d.report("fast", tokens=512)
    assert deeds(commands) == [Place(ref("fast"), Assign(JobSeq(1, 1), rid("a"), 1, 200))]
    assert stories(commands) == ["assigned"]


def test_a_request_that_comes_while_an_owner_is_free_is_placed_at_once() -> None:
    d = Driver()
    d.join("fast")
    d.report("fast", tokens=512)
    assert [job.request_id for job in jobs(d.known("a"), Assign)] == ["a"]


def test_a_worker_that_was_not_heard_gets_nothing() -> None:
    d = Driver()
    d.join("fast")
    assert deeds(d.known("a")) == []


def test_a_worker_without_token_credit_gets_nothing() -> None:
    d = Driver()
    d.join("fast")
    d.known("a")
    assert deeds(d.report("fast", tokens=0)) == []


@pytest.mark.parametrize(("blocks", "sequences"), [(0, 16), (12, 16), (500, 0)])
def test_a_worker_without_blocks_or_a_sequence_gets_nothing(blocks: int, sequences: int) -> None:
    d = Driver()
    d.join("fast")
    d.known("a", n=200)
    assert deeds(d.report("fast", tokens=512, blocks=blocks, sequences=sequences)) == []


def test_the_order_is_priority_then_deadline_then_arrival() -> None:
    d = Driver()
    d.join("fast")
    d.known("late", n=10)
    d.known("later", n=10)
    d.known("deadline", n=10, timeout_s=60.0)
    d.known("sooner", n=10, timeout_s=30.0)
    d.known("urgent", n=10, priority=-1)
    commands = d.report("fast", tokens=512)
    assert [job.request_id for job in jobs(commands, Assign)] == ["urgent", "sooner", "deadline", "late", "later"]


def test_what_no_report_has_accounted_for_is_subtracted() -> None:
    """The first prompt overdraws the token credit; nothing more until a report accounts for it."""
    d = Driver()
    d.join("fast")
    d.known("a", n=600)
    d.known("b", n=600)
    assert [job.request_id for job in jobs(d.report("fast", tokens=512), Assign)] == ["a"]
    assert jobs(d.report("fast", tokens=512, seen=JobSeq(0, 0)), Assign) == []
    assert [job.request_id for job in jobs(d.report("fast", owned("a", num_tokens=600), tokens=100), Assign)] == ["b"]


def test_blocks_are_reserved_for_the_prompt_and_the_expected_output() -> None:
    """200 + 64 tokens are 17 blocks of 16: of 40 blocks, two requests get theirs and the third waits."""
    d = Driver()
    d.join("fast")
    for name in ("a", "b", "c"):
        d.known(name, n=200, max_tokens=64)
    assert len(jobs(d.report("fast", tokens=5000, blocks=40), Assign)) == 2


def test_a_request_does_not_overtake_a_larger_one_that_this_worker_could_hold() -> None:
    d = Driver()
    d.join("fast")
    d.known("large", n=4000)
    d.known("small", n=20)
    assert jobs(d.report("fast", owned("else"), tokens=512, blocks=100), Assign) == []


def test_a_request_that_this_worker_could_never_hold_is_left_to_others() -> None:
    d = Driver()
    d.join("small", total_blocks=20)
    d.join("large", total_blocks=1000)
    d.known("a", n=4000)
    d.known("b", n=20)
    assert [job.request_id for job in jobs(d.report("small", tokens=512, blocks=20), Assign)] == ["b"]
    assert [job.request_id for job in jobs(d.report("large", tokens=512, blocks=1000), Assign)] == ["a"]


def test_a_request_that_nobody_could_hold_steps_aside_until_somebody_can() -> None:
    d = Driver()
    d.join("small", total_blocks=20)
    assert stories(d.known("a", n=4000)) == ["no_worker_can_hold_it"]
    d.known("b", n=20)
    assert [job.request_id for job in jobs(d.report("small", tokens=5000, blocks=20), Assign)] == ["b"]
    d.join("large", total_blocks=1000)
    assert [job.request_id for job in jobs(d.report("large", tokens=512, blocks=1000), Assign)] == ["a"]


def test_an_idle_worker_takes_a_prompt_that_fits_even_if_its_output_might_not() -> None:
    d = Driver()
    d.join("fast", total_blocks=20)
    d.known("a", n=300, max_tokens=1000)
    assert len(jobs(d.report("fast", tokens=512, blocks=19), Assign)) == 1


def test_of_two_free_owners_the_one_that_is_done_sooner_takes() -> None:
    d = Driver()
    d.join("busy")
    d.join("idle")
    d.report("busy", owned("else", num_tokens=4000), tokens=512)
    d.report("idle", tokens=512)
    (place,) = of(d.known("a"), Place)
    assert place.worker == ref("idle")


def test_slow_workers_do_not_own_while_a_fast_one_of_their_layout_is_there() -> None:
    d = Driver()
    d.join("fast", FAST)
    d.join("slow", SLOW)
    d.known("a")
    assert jobs(d.report("slow", tokens=512), Assign) == []


def test_if_nobody_else_is_alive_whoever_is_alive_owns() -> None:
    d = Driver()
    d.join("fast", FAST)
    d.join("slow", SLOW)
    d.known("a")
    d.now += 2.0
    d.report("slow", tokens=512)
    assert [job.request_id for job in jobs(d.tick(1.5), Assign)] == ["a"]


def test_a_fast_worker_of_another_layout_changes_nothing() -> None:
    d = Driver()
    d.join("fast", FAST, fingerprint=b"other")
    d.join("slow", SLOW)
    d.known("a")
    assert len(jobs(d.report("slow", tokens=512), Assign)) == 1


def test_a_corrected_profile_changes_roles_at_the_next_tick() -> None:
    d = Driver()
    d.join("one", FAST)
    d.join("two", SLOW)
    d.known("a", n=20)
    d.report("two", tokens=512, profile=FAST)
    assert len(jobs(d.tick(0.1), Assign)) == 1


def test_a_draining_worker_gets_nothing() -> None:
    d = Driver()
    d.join("fast")
    d.known("a")
    assert deeds(d.report("fast", tokens=512, state=WorkerState.DRAINING)) == []


def test_while_a_placement_is_unanswered_nothing_else_is_decided_for_the_request() -> None:
    d = Driver()
    d.join("one")
    d.join("two")
    d.known("a")
    assert len(jobs(d.report("one", tokens=512), Assign)) == 1
    assert deeds(d.report("two", tokens=512)) == []


def test_a_placement_without_an_answer_is_repeated_as_it_was() -> None:
    d = Driver()
    d.join("fast")
    d.known("a")
    (place,) = of(d.report("fast", tokens=512), Place)
    assert deeds(d.tick(0.5)) == []
    assert deeds(d.tick(0.5)) == [place]
    d.answer(place)
    assert deeds(d.tick(1.0)) == []


def test_a_refused_placement_lets_go_of_the_reservation_and_reads_the_record_again() -> None:
    d = Driver()
    d.join("fast")
    d.known("a", n=600)
    (place,) = of(d.report("fast", tokens=512), Place)
    assert deeds(d.answer(place, WriteStatus.SUPERSEDED)) == [Reread(rid("a"))]
    assert deeds(d.known("a", n=600)) == [], "the worker gets nothing before it is heard again"
    assert [job.attempt for job in jobs(d.report("fast", tokens=512), Assign)] == [1]


def test_late_and_repeated_answers_change_nothing() -> None:
    d = Driver()
    d.join("fast")
    d.known("a")
    (place,) = of(d.report("fast", tokens=512), Place)
    d.answer(place)
    for status in WriteStatus:
        assert deeds(d.answer(place, status)) == []


def test_the_story_of_an_assignment_tells_the_figures_that_decided() -> None:
    d = Driver()
    d.join("fast")
    d.known("a")
    (line,) = [c for c in d.report("fast", tokens=512) if stories([c])]
    assert {"worker", "cut", "source", "saved_s", "pull_s", "considered", "attempt"} <= set(line.data)  # type: ignore[union-attr]


def test_the_output_estimate_is_learned_from_requests_that_ended() -> None:
    """Outputs of 10 tokens instead of the default 128: the reservation shrinks from 21 blocks to 14."""
    d = Driver()
    d.join("fast")
    for number in range(16):
        d.run(f"r{number}", max_tokens=1000)
        d.report("fast", owned(f"r{number}", num_tokens=210, num_computed=209))
        d.report("fast", closed=(f"r{number}",))
    d.known("a", max_tokens=1000)
    d.known("b", max_tokens=1000)
    assert len(jobs(d.report("fast", tokens=512, blocks=28), Assign)) == 2
