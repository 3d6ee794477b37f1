"""What a worker does with cached prefixes: owned requests, head starts, pulls, preemption; one rule per test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from shared.messages import ReleaseAssist, Source, StopAssist
from shared.types import AssistId, RequestId, RequestSpec, TokenSpan, TransferId
from tests.support.core_bench import ASSISTED, PEER, SPEC, Bench, R, chunks, of
from tests.support.core_harness import World, make_spec
from workers.events import Closed, Emit, Launch, PullEnded, StartPull, StepFailed, Superseded, TellWorker

SAME = make_spec("s", 200)


def named(name: str, spec: RequestSpec, num_prompt: int = 1000, **changes: Any) -> RequestSpec:
    """Another request that begins like `spec`."""
    return replace(spec, request_id=RequestId(name), prompt=spec.prompt[:num_prompt], **changes)


def ended(**changes: Any) -> Bench:
    """A worker that has computed SPEC (prompt 100, answer [7, 0]) and holds nothing but its cached blocks."""
    bench = Bench(**changes)
    bench.assign(SPEC)
    bench.step(7)
    bench.step(0)
    bench.do(Closed(R, 1))
    assert bench.core.idle
    return bench


def test_the_full_blocks_of_an_ended_request_stay_cached_and_count_as_free() -> None:
    bench = ended()
    counts = bench.core.blocks.counts()
    assert (counts.cached, counts.free) == (6, 34)
    assert bench.reports[-1].credit.blocks == 40


def test_a_request_that_begins_alike_starts_behind_the_cached_prefix_and_says_so_in_its_first_entry() -> None:
    bench = ended()
    bench.assign(named("again", SPEC))
    assert chunks(bench.launched[0]) == [(96, 4)]
    first, *_ = of(Emit, bench.step(7))
    assert first.cached_tokens == 96
    second, *_ = of(Emit, bench.step(9))
    assert second.cached_tokens == 0


@pytest.mark.parametrize(("num_prompt", "start"), [(97, 96), (96, 80), (81, 80), (16, 0), (1, 0)])
def test_the_last_token_is_always_computed(num_prompt: int, start: int) -> None:
    bench = ended()
    bench.assign(named("again", SPEC, num_prompt))
    assert chunks(bench.launched[0]) == [(start, num_prompt - start)]


def test_generated_tokens_are_cached_too() -> None:
    bench = Bench()
    bench.assign(make_spec("long", 30, max_tokens=8))
    for token in range(1, 9):
        bench.step(token)
    follow = make_spec("long", 30)
    bench.assign(replace(follow, request_id=RequestId("next turn"), prompt=(*follow.prompt, 1, 2, 3, 4, 5)))
    assert chunks(bench.launched[0]) == [(32, 3)]


def test_another_tenants_prompt_and_another_prompt_start_at_nothing() -> None:
    bench = ended(max_sequences=8)
    bench.assign(named("other tenant", SPEC, salt="b"))
    bench.assign(make_spec("other prompt", 100))
    assert [chunks(launch) for launch in bench.launched] == [[(0, 100)]]
    bench.step(7)
    assert chunks(bench.launched[0]) == [(100, 1), (0, 100)]


def test_running_requests_share_blocks_and_a_shared_block_is_never_written() -> None:
    bench = Bench()
    bench.assign(SPEC)
    bench.step(7)
    bench.assign(named("again", SPEC))
    bench.step(8)
    (mine, other) = bench.core.sequences
    assert mine.blocks[:6] == other.blocks[:6]
    assert not set(mine.blocks[6:]) & set(other.blocks[6:])
    assert chunks(bench.launched[0]) == [(101, 1), (96, 4)]


def test_without_the_prefix_cache_nothing_is_kept() -> None:
    bench = ended(prefix_cache=False)
    assert bench.core.blocks.counts().free == 40
    bench.assign(named("again", SPEC))
    assert chunks(bench.launched[0]) == [(0, 100)]


def test_blocks_are_taken_from_the_cache_when_nothing_else_is_free() -> None:
    bench = ended(total_blocks=8)
    bench.assign(make_spec("other", 120))
    assert chunks(bench.launched[0]) == [(0, 120)]
    assert bench.core.blocks.counts().cached == 0


def test_a_preempted_request_finds_its_own_blocks_again() -> None:
    bench = Bench(total_blocks=12, max_sequences=2)
    older, newer = make_spec("older", 90, max_tokens=40), make_spec("newer", 60, max_tokens=40)
    bench.assign(older)
    bench.assign(newer)
    while not any(sequence.run for sequence in bench.core.sequences):
        bench.step(*[1] * len(bench.launched[0].plan.samples))
    held = bench.core.owned[RequestId("newer")].sequence
    assert not held.blocks
    assert len(bench.core.cached_prefix(held)) >= 2


# --- head starts ----------------------------------------------------------------------------------------------------


def test_a_head_start_offers_what_the_cache_has_at_once() -> None:
    bench = Bench(token_budget=256)
    bench.order(ASSISTED, limit=256)
    bench.step()
    bench.do(ReleaseAssist(AssistId("a")))
    assert bench.core.blocks.counts().cached == 16
    again = replace(ASSISTED, request_id=RequestId("again"))
    bench.launched.clear()
    bench.order_as("b", again, 256)
    assert bench.reports[-1].assists[0].offered == 256
    assert bench.launched == []


def test_a_head_start_goes_on_behind_the_cached_prefix_and_never_beyond_its_limit() -> None:
    bench = ended(max_sequences=8)
    longer = replace(SPEC, request_id=RequestId("longer"), prompt=SPEC.prompt + tuple(range(100)))
    bench.order(longer, limit=64)
    assert bench.reports[-1].assists[0].offered == 64
    bench.order_as("b", replace(longer, request_id=RequestId("l2")), 192)
    assert chunks(bench.launched[0]) == [(96, 96)]


def test_a_released_head_start_fills_the_cache_for_requests() -> None:
    bench = Bench()
    bench.order(ASSISTED, limit=128)
    bench.step()
    bench.do(StopAssist(AssistId("a"), PEER))
    bench.do(ReleaseAssist(AssistId("a")))
    bench.assign(named("own", ASSISTED))
    assert chunks(bench.launched[0]) == [(128, 128)]


def test_blocks_that_others_share_are_not_promised_as_reclaimable() -> None:
    bench = ended(max_sequences=8)
    bench.order(named("h", SPEC), limit=64)
    assert bench.core.reclaimable_blocks() == 4
    bench.assign(named("again", SPEC))
    assert bench.core.reclaimable_blocks() == 0


# --- pulls ----------------------------------------------------------------------------------------------------------

SOURCE = Source(AssistId("a"), PEER, 128)
RELEASE = TellWorker(PEER, ReleaseAssist(AssistId("a")))
LONG = replace(SPEC, request_id=RequestId("long"), prompt=SPEC.prompt + tuple(range(100)))


def test_only_what_the_cache_does_not_have_is_pulled_into_blocks_of_its_own() -> None:
    bench = ended()
    _, start = bench.assign(LONG, source=SOURCE)
    assert isinstance(start, StartPull)
    assert start.span == TokenSpan(64, 128)
    assert len(start.blocks) == 8
    assert bench.core.blocks.counts().in_flight == 4
    release, launch = bench.do(PullEnded(TransferId(1), 64, 1024, 0.1))
    assert release == RELEASE
    assert isinstance(launch, Launch)
    assert chunks(launch) == [(128, 72)]


def test_a_pull_that_fails_costs_only_what_was_to_be_pulled() -> None:
    bench = ended()
    bench.assign(LONG, source=SOURCE)
    _, launch = bench.do(PullEnded(TransferId(1), 0, 0, 2.0, "late"))
    assert isinstance(launch, Launch)
    assert chunks(launch) == [(64, 128)]


def test_a_source_that_has_no_more_than_the_cache_is_released_unpulled() -> None:
    bench = ended()
    commands = bench.assign(LONG, source=replace(SOURCE, tokens=64))
    assert RELEASE in commands
    assert not of(StartPull, commands)
    assert chunks(bench.launched[0]) == [(96, 104)]


def test_pulled_blocks_are_found_only_after_verification_and_bad_ones_never() -> None:
    bench = Bench(max_sequences=8)
    bench.assign(LONG, source=SOURCE)
    pulling = bench.core.owned[LONG.request_id].sequence
    assert bench.core.cached_prefix(pulling) == []
    bench.do(PullEnded(TransferId(1), 64, 1024, 0.1, "digest"))
    assert len(bench.core.cached_prefix(pulling)) == 4
    bench.do(Superseded(LONG.request_id, 1))
    assert bench.core.blocks.counts().cached == 4


def test_an_abandoned_pull_gives_back_only_its_own_blocks() -> None:
    bench = ended()
    bench.assign(LONG, source=SOURCE)
    bench.do(Superseded(LONG.request_id, 1))
    counts = bench.core.blocks.counts()
    assert (counts.in_flight, counts.cached) == (4, 6)
    bench.do(PullEnded(TransferId(1), 64, 1024, 0.1))
    assert bench.core.blocks.counts().cached == 6


# --- doubt ----------------------------------------------------------------------------------------------------------


def test_a_request_that_failed_alone_leaves_nothing_in_the_cache() -> None:
    bench = Bench()
    bench.assign(SAME)
    bench.step()
    for _ in range(2):
        bench.do(StepFailed(bench.launched.pop(0).plan.step, "broken"))
    assert RequestId("s") not in bench.core.owned
    assert bench.core.blocks.counts().cached == 0


# --- with an engine whose answer shows every wrong byte ----------------------------------------------------------------


def test_answers_are_the_same_with_a_shared_prefix_whatever_was_cached() -> None:
    """Low-end and high-end, pulls, sharing, eviction by a small cache: each answer is the reference."""
    world = World()
    high, low = world.add("high", total_blocks=40), world.add("low", total_blocks=24, max_sequences=4)
    shared = make_spec("system", 300).prompt
    specs = [make_spec(f"r{at}", 20 + 37 * at % 150, max_tokens=12) for at in range(10)]
    specs = [replace(spec, prompt=shared[: 64 * (at % 5)] + spec.prompt, salt=f"t{at % 2}") for at, spec in enumerate(specs)]
    for at, spec in enumerate(specs):
        assist = world.order(low, spec) if at % 3 else None
        world.run(0.3)
        offered = low.core.assists[assist].offer.tokens if assist in low.core.assists else 0
        world.assign(high, spec, source=Source(assist, low.ref, offered) if assist and offered else None)
        world.run(0.2)
    world.settle()
    for spec in specs:
        world.expect_answer(spec)
    assert sum(story.what == "cached" for node in (high, low) for story in node.stories) >= 4
