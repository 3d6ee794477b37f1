"""Head starts: low-ends advance waiting prompts; losing one costs time and nothing else."""

from __future__ import annotations

from scheduler.events import Place
from scheduler.policies.low_ends import MAX_LOST
from shared.fabric import WriteStatus
from shared.messages import Assign, AssistOrder, ReleaseAssist, Source, StopAssist
from shared.profile import Profile
from shared.types import AssistId, JobSeq
from tests.unit.scheduler.support import FAST, SLOW, Driver, deeds, jobs, listed, of, owned, ref, rid, stories, told

SLOW_LINK = Profile(0.02, 2e-4, 0.0, 1e-4, 1e-8, 1000, link_s=0.03)


def busy_pair() -> Driver:
    """A high-end that is full, and an idle low-end."""
    d = Driver()
    d.join("fast", FAST)
    d.join("slow", SLOW)
    d.report("fast", owned("else", num_tokens=5000), blocks=0)
    d.report("slow", tokens=512)
    return d


def test_a_waiting_prompt_gets_a_head_start_in_whole_granules_below_its_last_token() -> None:
    commands = busy_pair().known("a", n=2000)
    assert deeds(commands) == [Place(ref("slow"), AssistOrder(JobSeq(1, 1), AssistId("1.1"), rid("a"), 1984))]
    assert stories(commands) == ["head_start"]


def test_a_prompt_without_a_whole_granule_below_its_last_token_gets_none() -> None:
    assert deeds(busy_pair().known("a", n=64)) == []


def test_a_low_end_gives_at_most_max_assists_at_once() -> None:
    d = busy_pair()
    orders = [job for name in "abc" for job in jobs(d.known(name, n=2000), AssistOrder)]
    assert [order.request_id for order in orders] == ["a", "b"]


def test_a_head_start_reserves_a_sequence_and_its_blocks_until_a_report_accounts_for_it() -> None:
    d = busy_pair()
    d.report("slow", tokens=512, sequences=1)
    assert len(jobs(d.known("a", n=2000), AssistOrder)) == 1
    assert jobs(d.known("b", n=2000), AssistOrder) == []


def test_a_head_start_goes_no_further_than_the_low_end_has_blocks() -> None:
    d = busy_pair()
    d.report("slow", tokens=512, blocks=9)
    assert [order.limit for order in jobs(d.known("a", n=2000), AssistOrder)] == [128]


def test_what_is_about_to_be_taken_is_skipped() -> None:
    """The high-end will be free after the coming step: the first in the line needs no head start, the second does."""
    d = busy_pair()
    d.report("fast", owned("else", num_tokens=300), tokens=0)
    assert jobs(d.known("a", n=2000), AssistOrder) == []
    assert [order.request_id for order in jobs(d.known("b", n=2000), AssistOrder)] == ["b"]


def test_the_owner_takes_it_with_everything_that_is_offered_and_the_low_end_stops() -> None:
    d = Driver()
    order = d.assisted("a", offered=1024)
    commands = deeds(d.report("fast", tokens=512))
    source = Source(order.assist, ref("slow"), 1024, "host")
    assert of(commands, Place) == [Place(ref("fast"), Assign(JobSeq(1, 2), rid("a"), 1, 2000, source))]
    assert told(commands) == [("slow", StopAssist(order.assist, ref("fast")))]


def test_a_cut_leaves_the_last_token_to_the_owner() -> None:
    d = Driver()
    d.assisted("a", offered=128, n=129)
    (assign,) = jobs(d.report("fast", tokens=512), Assign)
    assert assign.source is not None
    assert assign.source.tokens == 128


def test_only_what_the_head_start_leaves_counts_against_the_token_credit() -> None:
    d = Driver()
    d.assisted("a", offered=1984)
    d.known("b", n=20)
    assert [job.request_id for job in jobs(d.report("fast", tokens=512), Assign)] == ["a", "b"]


def test_a_head_start_that_saves_less_than_its_transfer_is_released() -> None:
    d = Driver()
    d.join("slow", SLOW_LINK)
    order = d.assisted("a", offered=128)
    commands = d.report("fast", tokens=512)
    assert [assign.source for assign in jobs(commands, Assign)] == [None]
    assert told(commands) == [("slow", ReleaseAssist(order.assist))]


def test_a_head_start_without_a_finished_chunk_is_released() -> None:
    d = Driver()
    order = d.assisted("a", offered=0)
    commands = d.report("fast", tokens=512)
    assert [assign.source for assign in jobs(commands, Assign)] == [None]
    assert told(commands) == [("slow", ReleaseAssist(order.assist))]


def test_a_head_start_of_another_layout_is_no_source() -> None:
    d = Driver()
    order = d.assisted("a", offered=1024)
    d.join("other", FAST, fingerprint=b"other")
    commands = d.report("other", tokens=512)
    assert [assign.source for assign in jobs(commands, Assign)] == [None]
    assert told(commands) == [("slow", ReleaseAssist(order.assist))]


def test_an_owner_that_gave_the_head_start_itself_keeps_its_blocks() -> None:
    d = Driver()
    order = d.assisted("a", offered=1024)
    d.now += 2.0
    d.report("slow", listed(order, 1024), tokens=512, sequences=0, blocks=70)
    commands = d.tick(1.5)
    assert [assign.source for assign in jobs(commands, Assign)] == [Source(order.assist, ref("slow"), 1024, "host")]
    assert told(commands) == []


def test_an_idle_owner_whose_own_head_starts_leave_no_room_gives_one_up() -> None:
    d = Driver()
    order = d.assisted("a", offered=1024)
    d.now += 2.0
    d.report("slow", listed(order, 1024), tokens=512, sequences=0, blocks=0)
    assert told(d.tick(1.5)) == [("slow", ReleaseAssist(order.assist))]


def test_stop_is_not_repeated_because_the_low_end_stops_at_its_limit_anyway() -> None:
    d = Driver()
    order = d.assisted("a", offered=1024)
    d.report("fast", tokens=512)
    d.now += 2.0
    assert told(d.report("slow", listed(order, 1088))) == []


def test_a_taken_head_start_is_released_once_its_owner_has_computed_beyond_it() -> None:
    d = Driver()
    order = d.assisted("a", offered=1024)
    d.answer(of(d.report("fast", tokens=512), Place)[0])
    assert told(d.report("slow", listed(order, 1024))) == [], "the owner has not spoken yet"
    d.report("fast", owned("a", num_tokens=2000, num_computed=960))
    assert told(d.report("slow", listed(order, 1024))) == [], "the owner may still pull"
    d.report("fast", owned("a", num_tokens=2000, num_computed=1024))
    assert told(d.report("slow", listed(order, 1024))) == [("slow", ReleaseAssist(order.assist))]


def test_a_release_is_repeated_while_reports_list_the_head_start() -> None:
    d = Driver()
    order = d.assisted("a", offered=0)
    d.report("fast", tokens=512)
    assert told(d.report("slow", listed(order, 64))) == [], "not yet: it was told a moment ago"
    d.now += 1.0
    assert told(d.report("slow", listed(order, 64))) == [("slow", ReleaseAssist(order.assist))]
    d.now += 1.0
    assert told(d.report("slow")) == []


def test_a_head_start_of_an_unknown_request_is_released() -> None:
    d = busy_pair()
    order = AssistOrder(JobSeq(0, 7), AssistId("0.7"), rid("ended"), 640)
    assert told(d.report("slow", listed(order, 640))) == [("slow", ReleaseAssist(order.assist))]


def test_a_head_start_of_a_request_that_ended_is_released() -> None:
    d = Driver()
    order = d.assisted("a", offered=1024)
    d.answer(of(d.report("fast", tokens=512), Place)[0])
    commands = d.report("fast", closed=("a",))
    assert told(commands) == [("slow", ReleaseAssist(order.assist))]


def test_a_new_leader_finds_head_starts_in_reports() -> None:
    d = busy_pair()
    d.report("slow", sequences=0)
    d.known("a", n=2000)
    found = AssistOrder(JobSeq(0, 7), AssistId("0.7"), rid("a"), 0)
    assert told(d.report("slow", listed(found, 640))) == []
    (assign,) = jobs(d.report("fast", tokens=512), Assign)
    assert assign.source == Source(found.assist, ref("slow"), 640, "host")


def test_a_second_head_start_of_one_request_is_released() -> None:
    d = Driver()
    order = d.assisted("a", offered=1024)
    second = AssistOrder(JobSeq(0, 7), AssistId("0.7"), rid("a"), 0)
    assert told(d.report("slow", listed(order, 1024), listed(second, 640))) == [("slow", ReleaseAssist(second.assist))]


def test_head_starts_that_vanish_again_and_again_are_not_ordered_for_ever() -> None:
    """As those of a request whose log the server has lost: nobody takes it yet, so nobody else says so."""
    d = busy_pair()
    orders = jobs(d.known("a", n=2000), AssistOrder)
    for _ in range(10):
        orders += jobs(d.report("slow", tokens=512), AssistOrder)
    assert len(orders) == MAX_LOST
    assert [order.request_id for order in jobs(d.known("b", n=2000), AssistOrder)] == ["b"]


def test_a_head_start_that_vanished_from_a_report_is_gone_and_another_is_ordered() -> None:
    d = Driver()
    d.assisted("a", offered=1024)
    commands = d.report("slow", tokens=512)
    assert "head_start_lost" in stories(commands)
    assert [order.request_id for order in jobs(commands, AssistOrder)] == ["a"]


def test_a_head_start_that_no_report_accounts_for_within_a_period_is_forgotten() -> None:
    d = busy_pair()
    d.answer(of(d.known("a", n=2000), Place)[0])
    d.now += 2.0
    d.report("fast", blocks=0)
    assert "head_start_lost" not in stories(d.report("slow", seen=JobSeq(0, 0)))
    d.now += 2.0
    assert "head_start_lost" in stories(d.report("slow", seen=JobSeq(0, 0)))


def test_the_death_of_a_low_end_costs_a_waiting_request_its_head_start_and_nothing_else() -> None:
    d = Driver()
    d.assisted("a", offered=1024)
    d.now += 2.0
    d.report("fast", blocks=0)
    assert "head_start_lost" in stories(d.tick(1.5))
    (assign,) = jobs(d.report("fast", tokens=512), Assign)
    assert (assign.attempt, assign.source) == (1, None)


def test_an_order_without_an_answer_is_repeated_and_a_refused_one_is_forgotten() -> None:
    d = busy_pair()
    (place,) = of(d.known("a", n=2000), Place)
    assert deeds(d.tick(1.0)) == [place]
    commands = d.answer(place, WriteStatus.SUPERSEDED)
    assert stories(commands) == ["head_start_lost"]
    assert deeds(commands) == [], "the worker gets nothing before it is heard again"
    assert len(jobs(d.report("slow", tokens=512), AssistOrder)) == 1


def test_a_head_start_survives_its_owner() -> None:
    """The owner dies before it has pulled: the next one takes the same head start."""
    d = Driver()
    order = d.assisted("a", offered=1024)
    d.answer(of(d.report("fast", tokens=512), Place)[0])
    d.join("fast", FAST, "2")
    d.move_on("a")
    (assign,) = jobs(d.report(ref("fast", "2"), tokens=512), Assign)
    assert (assign.attempt, assign.source) == (2, Source(order.assist, ref("slow"), 1024, "host"))
