"""A worker that holds a prompt's beginning is preferred by what that saves, and by no more than that."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.events import Elected, Joined, Place, SchedulerCommand, TellStory
from scheduler.prefixes import PrefixMemory
from shared.messages import Assign, AssistOrder, AssistState, Source
from shared.prefixes import prefix_hashes, split_hashes
from shared.types import AssistId, WorkerRef
from tests.unit.scheduler.support import FAST, SLOW, Driver, info, jobs, of, owned, ref, rid

PROMPT = tuple(range(2000))
PREFIX = prefix_hashes(PROMPT, "tenant")
OTHER = prefix_hashes(PROMPT, "another tenant")


def two_owners(**settings: object) -> Driver:
    """Both idle and alike, so that `a` would be asked first; `b` has computed PROMPT."""
    d = Driver(**settings)  # type: ignore[arg-type]
    d.join("a", FAST)
    d.join("b", FAST)
    d.run("first", worker="b", n=2000, prefix=PREFIX)
    d.report("b", owned("first", num_tokens=2010, num_computed=2009))
    d.report("b", tokens=512, closed=("first",))
    d.report("a", tokens=512)
    return d


def placed(d: Driver, commands: list[SchedulerCommand]) -> str:
    (story,) = [line for line in of(commands, TellStory) if line.what == "assigned"]
    return str(story.data["worker"]).partition("#")[0]


def test_a_request_goes_where_its_beginning_is() -> None:
    d = two_owners()
    assert placed(d, d.known("again", n=2000, prefix=PREFIX)) == "b"
    assert placed(d, d.known("half of it", n=2000, prefix=prefix_hashes(PROMPT[:640] + PROMPT, "tenant"))) == "b"


def test_another_tenants_request_and_one_without_names_go_anywhere() -> None:
    d = two_owners()
    assert placed(d, d.known("other", n=2000, prefix=OTHER)) == "a"
    assert placed(two_owners(), two_owners().known("nameless", n=2000)) == "a"


def test_a_preference_is_a_term_of_the_cost() -> None:
    """What it has queued takes `b` longer than `a` needs for the whole prompt: 2,000 tokens against 1,984 saved."""
    d = two_owners()
    d.report("a")
    d.answer(of(d.known("long", n=4000), Place)[-1])
    d.report("b", owned("long", num_tokens=4000), tokens=100)
    d.report("a", tokens=512)
    assert placed(d, d.known("again", n=2000, prefix=PREFIX)) == "a"


def test_a_holder_that_is_not_free_is_not_waited_for() -> None:
    d = two_owners()
    d.report("b", tokens=0)
    assert placed(d, d.known("again", n=2000, prefix=PREFIX)) == "a"


def test_a_holder_where_it_does_not_fit_is_passed_over() -> None:
    d = two_owners()
    d.report("b", owned("else"), tokens=512, blocks=3)
    assert placed(d, d.known("again", n=2000, prefix=PREFIX)) == "a"


def test_the_line_keeps_its_order() -> None:
    """The first in the line is placed first, whoever holds the beginning of the second."""
    d = two_owners()
    d.report("a", tokens=0)
    d.report("b", tokens=0)
    d.known("stranger", n=2000)
    d.known("again", n=2000, prefix=PREFIX)
    assert [job.request_id for job in jobs(d.report("b", tokens=100), Assign)] == ["stranger"]


def test_the_longest_beginning_wins() -> None:
    d = two_owners()
    d.join("c", FAST)
    d.known("short", n=400, prefix=PREFIX[: 6 * 8])
    (assign,) = [request for request in d.requests() if request.request_id == rid("short")]
    assert assign.owner == ref("b")


def test_what_was_computed_so_far_counts_before_the_request_ends() -> None:
    d = Driver()
    d.join("a", FAST)
    d.join("b", FAST)
    d.run("first", worker="b", n=2000, prefix=PREFIX)
    d.report("b", owned("first", num_tokens=2000, num_computed=1100), tokens=512)
    d.report("a", tokens=512)
    commands = d.known("again", n=2000, prefix=PREFIX)
    assert placed(d, commands) == "b"
    (story,) = of(commands, TellStory)
    assert story.data["prefix"] == 1088


def test_the_story_says_what_was_believed_and_what_it_was_worth() -> None:
    d = two_owners()
    (story,) = of(d.known("again", n=2000, prefix=PREFIX), TellStory)
    rows: Any = story.data["considered"]
    assert story.data["prefix"] == 1984
    assert {row["worker"]: row["prefix"] for row in rows} == {"a#1": 0, "b#1": 1984}
    assert min(rows, key=lambda row: row["queued_s"] + row["prefill_s"])["worker"] == "b#1"


def test_a_new_leader_and_a_new_incarnation_start_with_nothing() -> None:
    d = two_owners()
    d.send(Elected(2))
    d.join("a", FAST)
    d.join("b", FAST)
    for name in ("b", "a"):
        d.report(name, tokens=512)
    assert placed(d, d.known("again", n=2000, prefix=PREFIX)) == "a"
    d = two_owners()
    d.join("b", FAST, "2")
    d.report(ref("b", "2"), tokens=512)
    d.report("a", tokens=512)
    assert placed(d, d.known("again", n=2000, prefix=PREFIX)) == "a"


def test_a_worker_without_a_cache_is_remembered_for_nothing() -> None:
    d = Driver()
    d.join("a", FAST)
    plain = info("b", FAST)
    d.send(Joined(type(plain)(plain.ref, plain.model, plain.fingerprint, "gpu", "host", FAST, 16, 1000, 32, 512, 8192, prefix_cache=False)))
    d.run("first", worker="b", n=2000, prefix=PREFIX)
    d.report("b", tokens=512, closed=("first",))
    d.report("a", tokens=512)
    assert placed(d, d.known("again", n=2000, prefix=PREFIX)) == "a"


# --- head starts ----------------------------------------------------------------------------------------------------


def busy_owner(prefix: bytes = PREFIX, computed: int = 2009) -> Driver:
    """`fast` has computed `prefix` and is busy; `slow` is idle."""
    d = Driver()
    d.join("fast", FAST)
    d.run("first", worker="fast", n=2000, prefix=prefix)
    d.report("fast", owned("first", num_tokens=2010, num_computed=computed))
    d.report("fast", owned("else", num_tokens=5000), blocks=0, closed=("first",) if computed >= 2000 else ())
    d.join("slow", SLOW)
    d.report("slow", tokens=512)
    return d


def test_a_head_start_that_saves_nothing_is_not_ordered() -> None:
    d = busy_owner()
    assert jobs(d.known("again", n=2000, prefix=PREFIX), AssistOrder) == []
    assert len(jobs(d.known("stranger", n=2000), AssistOrder)) == 1


def test_a_head_start_beyond_a_short_cached_prefix_is_ordered() -> None:
    d = busy_owner(prefix=PREFIX[: 4 * 8])
    assert [job.limit for job in jobs(d.known("again", n=2000, prefix=PREFIX), AssistOrder)] == [1984]


def test_an_offer_that_the_cache_should_have_is_given_along_in_case_it_has_not() -> None:
    d = Driver()
    d.join("fast", FAST)
    d.join("slow", SLOW)
    d.report("fast", owned("else", num_tokens=5000), blocks=0)
    d.report("slow", tokens=512)
    (order,) = jobs(d.known("a", n=2000, prefix=PREFIX), AssistOrder)
    d.report("slow", AssistState(order.assist, rid("a"), 640, stopped=False))
    d.known("b", n=2000, prefix=PREFIX)
    (assign, *_) = jobs(d.report("fast", tokens=512), Assign)
    assert assign.source == Source(AssistId(order.assist), ref("slow"), 640, "host")


# --- the memory itself ------------------------------------------------------------------------------------------------

A, B = ref("a"), ref("b")


def test_memory_is_as_large_as_the_workers_kv_and_forgets_the_oldest_and_deepest_first() -> None:
    memory = PrefixMemory()
    memory.note(A, PREFIX, 640, 1280)
    memory.note(A, OTHER, 640, 1280)
    memory.note(A, prefix_hashes(PROMPT, "third"), 192, 1280)
    assert (memory.cached_tokens(A, PREFIX, 2000), memory.cached_tokens(A, OTHER, 2000), len(memory)) == (448, 640, 20)
    memory.check()


def test_holders_come_longest_first_and_the_last_token_is_never_counted() -> None:
    memory = PrefixMemory()
    memory.note(A, PREFIX, 300, 10_000)
    memory.note(B, PREFIX, 2000, 10_000)
    assert list(memory.holders(PREFIX, 2000)) == [B, A]
    assert memory.cached_tokens(B, PREFIX, 1985) == 1984
    assert memory.cached_tokens(B, PREFIX, 1984) == 1920
    memory.forget(B)
    assert list(memory.holders(PREFIX, 2000)) == [A]
    assert list(memory.holders(b"", 2000)) == []


@pytest.mark.parametrize("capacity", [0, 63, 64])
def test_a_worker_with_hardly_any_memory_is_no_special_case(capacity: int) -> None:
    memory = PrefixMemory()
    memory.note(A, PREFIX, 2000, capacity)
    assert memory.cached_tokens(A, PREFIX, 2000) == capacity // 64 * 64
    memory.check()


@given(st.lists(st.tuples(st.sampled_from([A, B]), st.integers(0, 3), st.integers(0, 700), st.booleans()), max_size=40))
def test_memory_against_a_plain_model(calls: list[tuple[WorkerRef, int, int, bool]]) -> None:
    memory, plain = PrefixMemory(), dict[WorkerRef, list[bytes]]()
    for who, tenant, tokens, forget in calls:
        prefix = prefix_hashes(PROMPT[:700], str(tenant))
        names = split_hashes(prefix, tokens)
        if forget:
            memory.forget(who)
            plain[who] = []
        else:
            memory.note(who, prefix, tokens, 1024)
            kept = [name for name in plain.get(who, []) if name not in names] + names[::-1]
            plain[who] = kept[-16:]
        memory.check()
        first_gap = next((at for at, name in enumerate(split_hashes(prefix, 699)) if name not in plain[who]), 10)
        assert memory.cached_tokens(who, prefix, 700) == 64 * first_gap
