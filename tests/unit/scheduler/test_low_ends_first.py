"""While the line is short and much arrives, an owner with decodes leaves a prompt to a low-end until that has done its share of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.events import Left, Place, SchedulerCommand
from scheduler.pace import DECODE_ALONE, Pace
from scheduler.policies.base import Take
from scheduler.policies.low_ends import SHORT, LowEnds
from scheduler.prompt_rate import MEMORY_S, PromptRate
from scheduler.scores import itl_seconds
from scheduler.settings import SchedulerSettings
from scheduler.view import ClusterView, Roles
from shared.messages import Assign, AssistOrder
from shared.types import Phase
from tests.unit.scheduler.support import FAST, SLOW, Driver, jobs, listed, of, owned, ref

DECODES = tuple(owned(f"d{number}", num_tokens=1001, num_computed=1000) for number in range(8))
PRESSING = 17
"""Prompts of 8,000 tokens within one moment: for ten seconds more than a third of the owner's steps."""
BEGUN = 2000
"""Tokens of head starts that a low-end has still to compute."""


def pressed(arrived: int = PRESSING) -> Driver:
    """`fast` decodes and has room, `slow` is idle; `arrived` large prompts have just gone elsewhere."""
    d = Driver()
    d.join("fast", FAST)
    d.join("slow", SLOW)
    for number in range(arrived):
        d.known(f"gone{number}", Phase.RUNNING, owner=ref("elsewhere"), n=8000)
    d.report("slow", tokens=512)
    decode(d)
    return d


def decode(d: Driver, *, tokens: int = 504) -> list[SchedulerCommand]:
    """What the owner runs is its own and old: the audit is not what is tested here."""
    return d.report("fast", *DECODES, tokens=tokens)


def view_of(d: Driver) -> ClusterView:
    leadership = d.core._leadership
    assert leadership is not None
    return leadership.placement.view(d.now)


def test_a_prompt_is_left_to_the_low_end_until_it_has_its_share_and_taken_then_though_the_owner_says_nothing() -> None:
    d = pressed()
    commands = d.known("a", n=2000)
    assert jobs(commands, Assign) == []
    (order,) = jobs(commands, AssistOrder)
    assert 0 < order.limit < 1000, "a part that takes the slow one no longer than the rest takes the fast one"
    assert jobs(decode(d), Assign) == [], "the owner is free, and leaves it"
    half = order.limit // 2 // 64 * 64
    assert jobs(d.report("slow", listed(order, half), sequences=15), Assign) == []
    (assign,) = jobs(d.report("slow", listed(order, order.limit), sequences=15), Assign)
    assert assign.source is not None
    assert assign.source.tokens == order.limit


@pytest.mark.parametrize("calm", ["little arrives", "it has no decodes", "no low-end has room", "the low-end cannot hand over"])
def test_else_it_is_taken_at_once(calm: str) -> None:
    d = pressed(arrived=3 if calm == "little arrives" else PRESSING)
    if calm == "it has no decodes":
        d.report("fast", tokens=512)
    if calm == "no low-end has room":
        d.report("slow", blocks=0)
    if calm == "the low-end cannot hand over":
        d.send(Left(ref("slow")))
        d.join("slow", SLOW, "2", fingerprint=b"another")
        d.report(ref("slow", "2"), tokens=512)
        decode(d)
    assert [job.request_id for job in jobs(d.known("a", n=2000), Assign)] == ["a"]


def test_who_finds_no_low_end_with_room_is_taken() -> None:
    d = pressed()
    commands = [d.known(f"a{number}", n=1000) for number in range(3)]
    assert [len(jobs(answer, AssistOrder)) for answer in commands] == [1, 1, 0], "it computes two at once"
    assert [job.request_id for answer in commands for job in jobs(answer, Assign)] == ["a2"]


@pytest.mark.parametrize(("waiting", "first"), [(4, True), (5, False)])
def test_once_more_wait_than_low_ends_compute_and_as_many_again_owners_take(waiting: int, first: bool) -> None:
    d = pressed()
    decode(d, tokens=0)
    for number in range(waiting):
        d.known(f"a{number}", n=500)
    view = view_of(d)
    assert LowEnds(d.core.settings).go_first(view, view.workers[ref("fast")]) is first


@pytest.mark.parametrize(("tokens", "first"), [(SHORT * 512 // 2, True), (SHORT * 512 // 2 + 1, False)])
def test_two_very_long_prompts_are_a_burst(tokens: int, first: bool) -> None:
    d = pressed()
    decode(d, tokens=0)
    for name in "ab":
        d.known(name, n=tokens)
    view = view_of(d)
    assert LowEnds(d.core.settings).go_first(view, view.workers[ref("fast")]) is first


def test_a_prompt_whose_low_end_dies_is_taken_at_once() -> None:
    d = pressed()
    (order,) = jobs(d.known("a", n=2000), AssistOrder)
    d.report("slow", listed(order, 0), sequences=15)
    assert [job.request_id for job in jobs(d.send(Left(ref("slow"))), Assign)] == ["a"]


def test_a_head_start_that_stopped_short_is_taken_as_it_is() -> None:
    d = pressed()
    (order,) = jobs(d.known("a", n=2000), AssistOrder)
    (assign,) = jobs(d.report("slow", listed(order, 64, stopped=True), sequences=15), Assign)
    assert assign.source is not None
    assert assign.source.tokens == 64


def test_without_owners_nothing_is_pressed_and_nothing_ordered() -> None:
    """Nobody's time is filled then, however much arrives: a prefill takes for ever, and has no share."""
    d = pressed()
    d.report("slow", blocks=0)
    decode(d, tokens=0)
    d.known("a", n=2000)
    view = view_of(d)
    assert [waiting.request_id for waiting in view.waiting.without_head_start()] == ["a"]
    alone = view._replace(roles=Roles(frozenset(), frozenset({ref("slow")})))
    assert LowEnds(d.core.settings).decide(alone, view.workers[ref("slow")]) is None


@given(tokens=st.integers(1, 100_000), output=st.integers(0, 10_000), relief=st.floats(0.001, 100.0))
def test_a_share_makes_both_sides_work_equally_long(tokens: int, output: int, relief: float) -> None:
    pace = Pace(1e-4, 2e-4, 1e-9, relief, 5000.0)
    share = pace.share(tokens, output)
    decode_s = pace.decode_s + (tokens + output / 2) * pace.decode_context_s
    assert share * pace.prefill_s / relief == pytest.approx((tokens - share) * pace.prefill_s + DECODE_ALONE * output * decode_s)


def test_a_low_end_twice_as_slow_as_the_others_is_left_half_as_much() -> None:
    """All of them work equally long on what they are left: nobody waits for a CPU what the line's average allows a GPU."""
    d = pressed()
    d.join("slower", SLOW.scaled(2.0))
    d.report("slower", tokens=512)
    decode(d)
    placed = [placing for name in "abcd" for placing in of(d.known(name, n=1500), Place)]
    limits = [(placing.worker.worker, placing.job.limit) for placing in placed if isinstance(placing.job, AssistOrder)]
    assert limits == [("slow", 384), ("slow", 384), ("slower", 192), ("slower", 192)]


def test_without_low_ends_there_is_no_share() -> None:
    assert Pace(1e-4, 2e-4, 1e-9, 0.0, 0.0).share(1000, 100) == 0.0


def test_a_steady_stream_is_known_by_its_rate_and_forgotten_when_it_ends() -> None:
    rate = PromptRate(0.0)
    for number in range(1000):
        rate.arrived(500, 0.0, number * 0.1)
    assert rate.per_s(100.0) == pytest.approx(5000, rel=0.02)
    assert rate.per_s(100.0 + MEMORY_S) == pytest.approx(5000 / 2.718, rel=0.02)
    assert rate.per_s(1000.0) < 1e-3


def test_a_new_leader_finds_the_rate_of_the_one_before_it() -> None:
    """It learns of everything at once, with ages."""
    old, new = PromptRate(0.0), PromptRate(50.0)
    for number in range(500):
        old.arrived(500, 0.0, number * 0.1)
        new.arrived(500, 50.0 - number * 0.1, 50.0)
    assert new.per_s(50.0) == pytest.approx(old.per_s(50.0))


def crowded(arrived: int = PRESSING, waiting: int = 60) -> Driver:
    """`fast` has places and room for small requests, but none for the first in the line, and nobody overtakes that."""
    d = pressed(arrived)
    d.report("fast", *DECODES, tokens=400, blocks=64)
    d.report("slow", tokens=0)
    for number in range(waiting):
        d.known(f"w{number}", n=1500, max_tokens=200)
    return d


def test_in_a_crowd_a_low_end_serves_whole_what_it_finishes_sooner() -> None:
    placed = of(crowded().report("slow", tokens=512), Place)
    assert isinstance(placed[0].job, Assign), "a whole request comes before head starts"
    place = int(placed[0].job.request_id[1:])
    assert place > 0, "the owner is there sooner for the first"
    assert place < 18, "sooner is enough, and a take waits for a decode to end: twice as soon, or by prefill alone, it would be the 26th"
    assert not jobs(crowded(arrived=0, waiting=10).report("slow", tokens=512), Assign), "little arrived: this will pass"


def test_and_begins_no_head_starts_beside_its_decodes() -> None:
    mine = owned("mine", num_tokens=1001, num_computed=1000)
    d = crowded(waiting=3)
    assert of(d.report("slow", mine, tokens=511), Place) == [], "the owner is there sooner for all, and it has its own to decode"
    assert jobs(crowded(waiting=3).report("slow", tokens=512), AssistOrder), "with nothing of its own it helps"


def test_and_what_it_has_begun_comes_first() -> None:
    """So it serves somebody who stands farther back, by as many as owners take meanwhile."""
    view = view_of(crowded())
    slow = view.workers[ref("slow")]
    idle = slow._replace(free=slow.free._replace(tokens=512), growing_tokens=0)
    busy = idle._replace(growing_tokens=BEGUN)
    first, later = (LowEnds(SchedulerSettings()).decide(view, worker) for worker in (idle, busy))
    assert isinstance(first, Take)
    assert isinstance(later, Take)
    ahead = view.waiting.place(later.request_id) - view.waiting.place(first.request_id)
    owner, typical = view.workers[ref("fast")], next(view.waiting.first(1))
    between = typical.mean_output * itl_seconds(owner, typical.num_tokens) / owner.decodes
    assert ahead == pytest.approx(BEGUN / slow.speed / between, abs=1)


def test_and_owners_leave_nobody_to_low_ends() -> None:
    d = crowded(waiting=3)
    view = view_of(d)
    assert not LowEnds(d.core.settings).go_first(view, view.workers[ref("fast")])
    d.report("fast", *DECODES, tokens=400)
    view = view_of(d)
    assert LowEnds(d.core.settings).go_first(view, view.workers[ref("fast")]), "there is memory again"
