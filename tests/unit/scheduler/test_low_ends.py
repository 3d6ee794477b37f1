"""What low-ends do: head starts that will be done in time, whole requests where that is better, nothing that costs more than it saves."""

from __future__ import annotations

from dataclasses import replace

from scheduler.events import Joined, SchedulerCommand, TellStory
from shared.messages import Assign, AssistOrder
from shared.profile import Profile
from tests.unit.scheduler.support import FAST, SLOW, Driver, info, jobs, of, owned

FAR = replace(SLOW, link_s=1000.0)


def behind_a_busy_owner(low: Profile = SLOW, waiting: int = 0, **settings: object) -> Driver:
    """`fast` has 5,000 tokens to prefill and no room; `slow` has just come; `waiting` requests are in the line."""
    d = Driver(**settings)  # type: ignore[arg-type]
    d.join("fast", FAST)
    d.join("slow", low)
    d.report("fast", owned("else", num_tokens=5000), blocks=0)
    for number in range(waiting):
        d.known(f"w{number}", n=1000, max_tokens=20)
    return d


def assigned(commands: list[SchedulerCommand]) -> TellStory:
    (line,) = [line for line in of(commands, TellStory) if line.what == "assigned"]
    return line


def test_a_head_start_goes_to_a_prompt_that_will_still_wait_when_it_is_done() -> None:
    """The owner takes one every 30 ms, the low-end needs 240 ms for one: the first in the line would be taken from under its hands."""
    d = behind_a_busy_owner(waiting=60)
    first, second = (int(job.request_id[1:]) for job in jobs(d.report("slow", tokens=512), AssistOrder))
    assert 1 < first < second < 59


def test_in_a_short_line_the_last_one_is_advanced() -> None:
    d = behind_a_busy_owner(waiting=3, max_assists=1)
    assert [job.request_id for job in jobs(d.report("slow", tokens=512), AssistOrder)] == ["w2"]


def test_behind_a_slow_link_a_low_end_gives_no_head_starts_and_serves_what_it_would_finish_much_sooner() -> None:
    d = behind_a_busy_owner(FAR, waiting=400)
    commands = d.report("slow", tokens=512)
    assert jobs(commands, AssistOrder) == []
    (assign, *_) = jobs(commands, Assign)
    assert assign.source is None
    assert 20 < int(assign.request_id[1:]) < 399
    d = behind_a_busy_owner(FAR, waiting=3)
    assert jobs(d.report("slow", tokens=512), Assign) == [], "the owner is there sooner"


def full_owner(waiting: int) -> Driver:
    """Nothing is left to prefill there, and no place: its decodes are what everybody waits for."""
    d = Driver()
    d.join("fast", FAST)
    d.join("slow", SLOW)
    d.report("fast", owned("else", num_tokens=5000, num_computed=4999), tokens=400, sequences=0)
    for number in range(waiting):
        d.known(f"w{number}", n=1000, max_tokens=200)
    return d


def test_when_the_owners_are_full_low_ends_decode() -> None:
    commands = full_owner(waiting=60).report("slow", tokens=512)
    assert len(jobs(commands, Assign)) >= 1
    story = next(line for line in of(commands, TellStory) if line.what == "assigned")
    assert story.data["worker"] == "slow#1"
    assert story.data["lost"] == {"no room": 1}
    considered = story.data["considered"]
    assert isinstance(considered, list)
    assert [row["role"] for row in considered] == ["whole"]


def priced(target_s: float) -> Driver:
    d = Driver(ttft_target_s=target_s)
    d.send(Joined(replace(info("fast", FAST), usd_per_hour=10.0)))
    d.send(Joined(replace(info("slow", SLOW), usd_per_hour=0.1)))
    d.report("slow", tokens=512)
    d.report("fast", tokens=512)
    return d


def test_a_low_end_that_meets_the_target_for_less_serves_the_request_whole() -> None:
    story = assigned(priced(5.0).known("a", n=1000))
    assert story.data["worker"] == "slow#1"


def test_a_target_that_only_the_dear_worker_meets_is_met_there() -> None:
    assert assigned(priced(0.1).known("a", n=1000)).data["worker"] == "fast#1"


def test_a_requests_own_target_counts_and_the_pools_is_for_who_has_none() -> None:
    assert assigned(priced(0.1).known("a", n=1000, ttft_target_s=5.0)).data["worker"] == "slow#1"
    story = assigned(priced(5.0).known("a", n=1000, ttft_target_s=0.1, itl_target_s=7.0))
    assert story.data["worker"] == "fast#1"
    assert (story.data["ttft_target_s"], story.data["itl_target_s"]) == (0.1, 7.0)
    considered = story.data["considered"]
    assert isinstance(considered, list)
    assert [row["in_time"] for row in considered] == [True]


def test_a_requests_own_time_between_tokens_counts() -> None:
    assert assigned(priced(0.0).known("a", n=1000, itl_target_s=5.0)).data["worker"] == "slow#1"
    assert assigned(priced(5.0).known("a", n=1000, itl_target_s=1e-6)).data["worker"] == "fast#1"


def test_without_a_target_nothing_is_saved() -> None:
    assert assigned(priced(0.0).known("a", n=1000)).data["worker"] == "fast#1"


# -- the story


def test_the_story_shows_the_best_five_and_counts_the_rest_by_reason() -> None:
    d = Driver()
    for at in range(8):
        d.join(f"w{at}", FAST)
        d.report(f"w{at}", owned(f"q{at}", num_tokens=100 + at), tokens=512)
    d.join("busy", FAST)
    d.report("busy", owned("much", num_tokens=5000), tokens=0)
    d.join("crowded", FAST)
    d.report("crowded", owned("many", num_computed=199), tokens=512, sequences=0)
    d.join("slow", SLOW)
    story = assigned(d.known("a", n=1000))
    considered = story.data["considered"]
    assert isinstance(considered, list)
    assert [row["worker"] for row in considered] == [f"w{at}#1" for at in range(5)]
    assert considered[0]["cost"] == min(row["cost"] for row in considered)
    assert story.data["lost"] == {"slower": 3, "no token credit": 1, "no room": 1, "gives head starts": 1}


def test_the_story_says_why_a_head_start_is_not_used() -> None:
    d = Driver()
    d.assisted("a", offered=1024)
    d.join("other", FAST, fingerprint=b"other")
    assert assigned(d.report("other", tokens=512)).data["not_cut"] == "wrong fingerprint"
