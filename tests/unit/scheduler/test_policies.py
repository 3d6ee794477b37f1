"""Policies are pure: a hand-made view in, a decision out. And `fixed-cut` never lets a request hang."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.cost_model import assign_amount, assist_limit, fits, granted, pull_seconds, standard_seconds
from scheduler.events import Place
from scheduler.policies import POLICIES, make_policy
from scheduler.settings import SchedulerSettings
from scheduler.view import Amount, WorkerView
from shared.errors import ConfigError
from shared.messages import Assign, AssistOrder
from shared.types import AssistId
from tests.unit.scheduler.support import FAST, SLOW, Driver, Held, Waits, jobs, listed, of, owned, ref, rid


def worker(name: str = "fast", free: Amount = Amount(512, 100, 8), *, owned: int = 1) -> WorkerView:  # noqa: B008 - a tuple
    return WorkerView(ref(name), FAST, b"layout", 16, 1000, 8192, 512, True, free, 0, owned, (), 50_000.0)


def waiting(n: int = 200, output: int = 64, head_start: Held | None = None) -> Waits:
    return Waits(rid("a"), n, output, head_start)


def test_owning_takes_what_is_left_to_compute_and_blocks_for_prompt_and_output() -> None:
    assert assign_amount(worker(), waiting(200, 64)) == Amount(200, 17, 1)
    assert assign_amount(worker(), waiting(200, 64), cut=128) == Amount(72, 17, 1)


def test_what_the_owner_holds_already_takes_no_place_twice() -> None:
    own = Held(AssistId("x"), ref("fast"), 128, 192)
    assert assign_amount(worker(), waiting(200, 64, own), cut=128) == Amount(72, 9, 0)


def test_a_job_fits_only_with_credit_a_sequence_and_blocks() -> None:
    assert fits(worker(free=Amount(1, 17, 1)), waiting())
    for short in (Amount(0, 17, 1), Amount(1, 16, 1), Amount(1, 17, 0)):
        assert not fits(worker(free=short), waiting())


def test_a_head_start_is_whole_granules_within_the_free_blocks() -> None:
    assert assist_limit(worker(), 200) == 192
    assert assist_limit(worker(), 193) == 192
    assert assist_limit(worker(), 192) == 128
    assert assist_limit(worker(free=Amount(0, 9, 1)), 2000) == 128
    assert assist_limit(worker(), 2000, goal=300) == 256


def test_a_pull_goes_at_the_pace_of_the_slower_link_and_costs_nothing_at_home() -> None:
    assert pull_seconds(worker("fast"), worker("fast"), 1024) == 0.0
    assert pull_seconds(worker("fast"), worker("slow"), 1000) == pytest.approx(0.002)


def test_free_workers_are_ranked_by_the_time_a_standard_prompt_would_take() -> None:
    assert standard_seconds(worker()) == pytest.approx(512 / 50_000)


def test_an_unknown_policy_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"fastest_first.*headstart"):
        make_policy(SchedulerSettings(policy="fastest_first"))
    assert {make_policy(SchedulerSettings(policy=name)).name for name in POLICIES} == set(POLICIES)


@pytest.mark.parametrize("bad", [{"low_end_ratio": 0.0}, {"retry_s": -1.0}, {"max_crashes": 0}, {"output_quantile": 1.5}])
def test_a_bad_setting_names_itself(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        SchedulerSettings(**bad)  # type: ignore[arg-type]


def test_high_only_gives_no_head_starts() -> None:
    d = Driver(policy="high-only")
    d.join("fast", FAST)
    d.join("slow", SLOW)
    d.report("slow", tokens=512)
    assert jobs(d.known("a", n=2000), AssistOrder) == []
    assert len(jobs(d.report("fast", tokens=512), Assign)) == 1


# -- fixed cut


def cut_at(tokens: int) -> Driver:
    d = Driver(policy="fixed-cut", cut_tokens=tokens)
    d.join("fast", FAST)
    d.join("slow", SLOW)
    d.report("fast", tokens=512)
    d.report("slow", tokens=512)
    return d


def test_a_fixed_cut_is_waited_for_and_taken_exactly() -> None:
    d = cut_at(300)
    commands = d.known("a", n=2000)
    (order,) = jobs(commands, AssistOrder)
    assert (order.limit, jobs(commands, Assign)) == (256, [])
    d.answer(of(commands, Place)[0])
    assert jobs(d.report("slow", listed(order, 192)), Assign) == []
    (assign,) = jobs(d.report("slow", listed(order, 256)), Assign)
    assert assign.source is not None
    assert assign.source.tokens == 256


@pytest.mark.parametrize(("cut", "n"), [(0, 2000), (63, 2000), (1024, 64)])
def test_a_cut_of_nothing_is_assigned_at_once(cut: int, n: int) -> None:
    commands = cut_at(cut).known("a", n=n)
    assert [assign.source for assign in jobs(commands, Assign)] == [None]


def test_a_cut_beyond_the_prompt_is_the_last_granule_below_its_last_token() -> None:
    assert [order.limit for order in jobs(cut_at(5000).known("a", n=193), AssistOrder)] == [192]


def test_a_fixed_cut_does_not_wait_for_a_dead_low_end() -> None:
    d = cut_at(256)
    d.answer(of(d.known("a", n=2000), Place)[0])
    d.now += 2.0
    d.report("fast", tokens=512)
    assert [assign.source for assign in jobs(d.tick(1.5), Assign)] == [None]


def test_a_fixed_cut_takes_what_there_is_when_the_low_end_can_go_no_further() -> None:
    d = cut_at(256)
    (order,) = jobs(d.known("a", n=2000), AssistOrder)
    (assign,) = jobs(d.report("slow", listed(order, 128, stopped=True)), Assign)
    assert assign.source is not None
    assert assign.source.tokens == 128


def test_a_fixed_cut_is_not_asked_for_twice_after_its_head_start_vanished() -> None:
    d = cut_at(256)
    d.known("a", n=2000)
    commands = d.report("slow", tokens=512)
    assert [assign.source for assign in jobs(commands, Assign)] == [None]


def test_a_fixed_cut_without_low_ends_is_assigned_at_once() -> None:
    d = Driver(policy="fixed-cut", cut_tokens=256)
    d.join("fast")
    d.report("fast", tokens=512)
    assert len(jobs(d.known("a", n=2000), Assign)) == 1


def test_a_policy_that_overfills_a_worker_is_a_bug_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from scheduler.policies.base import Take
    from scheduler.policies.headstart import Headstart

    monkeypatch.setattr(Headstart, "take", lambda *_: Take(rid("a")))
    d = Driver()
    d.join("fast")
    d.report("fast", owned("else"), tokens=512, blocks=1)
    with pytest.raises(ValueError, match="does not fit"):
        d.known("a")


def choices(n: int, num_prompt: int = 200, num_tokens: int = 200) -> Waits:
    return replace(waiting(num_tokens), num_choices=n, num_prompt=num_prompt)


def test_choices_take_a_place_and_an_output_each_and_the_prompt_once() -> None:
    assert assign_amount(worker(), choices(3)) == Amount(200 + 2 * 8, 17 + 2 * 5, 3)
    assert assign_amount(worker(), choices(3, num_tokens=230)) == Amount(230 + 2 * 38, 19 + 2 * 7, 3)
    own = Held(AssistId("x"), ref("fast"), 128, 192)
    assert assign_amount(worker(), replace(choices(3), head_start=own), cut=128).sequences == 2


def test_choices_need_all_their_places_unless_the_worker_is_idle() -> None:
    few = Amount(512, 100, 2)
    assert not fits(worker(free=few), choices(3))
    assert fits(worker(free=few), choices(2))
    assert fits(worker(free=few, owned=0), choices(30))
    assert granted(worker(free=few, owned=0), assign_amount(worker(), choices(30))) == Amount(200 + 29 * 8, 100, 2)
