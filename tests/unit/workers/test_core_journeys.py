"""Whole requests through one or two cores: every answer is the one that the definition gives, whatever happened on the way."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.messages import Cancel, Credit, Drain, ReleaseAssist, Source, StopAssist, WorkerState
from shared.types import FinishReason, Phase, RequestSpec
from tests.support.core_harness import Node, World, make_spec
from workers.events import DropOutput, PeerLost
from workers.fake_engine import FakeModel
from workers.loopback_transport import Fault

DEPTHS = pytest.mark.parametrize("depth", [1, 2])


@DEPTHS
@pytest.mark.parametrize("num_prompt", [1, 15, 16, 17, 127, 128, 129, 300])
def test_one_request_alone(depth: int, num_prompt: int) -> None:
    world = World()
    node = world.add("high", depth=depth)
    spec = make_spec("r", num_prompt, max_tokens=20)
    world.assign(node, spec)
    world.settle()
    world.expect_answer(spec)
    assert world.finish[spec.request_id] is FinishReason.LENGTH


@DEPTHS
def test_many_requests_beside_each_other(depth: int) -> None:
    world = World()
    node = world.add("high", depth=depth)
    specs = [make_spec(f"r{at}", 1 + 37 * at % 400, max_tokens=1 + at % 13) for at in range(30)]
    for spec in specs:
        world.assign(node, spec)
        world.run(0.01)
    world.settle()
    for spec in specs:
        world.expect_answer(spec)


@DEPTHS
@pytest.mark.parametrize("cut", range(64, 321, 64))
def test_a_cut_at_every_granule(depth: int, cut: int) -> None:
    world = World()
    low, high = world.add("low", depth=depth), world.add("high", depth=depth)
    spec = make_spec("r", 321, max_tokens=10)
    assist = world.order(low, spec, limit=cut)
    world.run(2.0)
    assert low.reports[-1].assists[0].offered == cut
    world.assign(high, spec, source=Source(assist, low.ref, cut))
    world.settle()
    world.expect_answer(spec)
    assert [story.data["good_tokens"] for story in high.stories if story.what == "pulled"] == [cut]


@DEPTHS
def test_a_running_head_start_may_be_taken_before_its_limit(depth: int) -> None:
    world = World()
    low, high = world.add("low", depth=depth, token_budget=64), world.add("high", depth=depth)
    spec = make_spec("r", 500)
    assist = world.order(low, spec)
    world.run(until=lambda: bool(low.reports[-1].assists and low.reports[-1].assists[0].offered >= 128))
    world.tell(low.ref, StopAssist(assist, high.ref))
    world.assign(high, spec, source=Source(assist, low.ref, 128))
    world.settle()
    world.expect_answer(spec)
    assert not low.core.assists


@DEPTHS
@pytest.mark.parametrize("taken_after", [0.0, 0.021, 0.05, 0.09, 1.0])
def test_its_own_head_start_is_kept_and_no_byte_moves(depth: int, taken_after: float) -> None:
    world = World()
    node = world.add("only", depth=depth, token_budget=64)
    spec = make_spec("r", 300)
    assist = world.order(node, spec)
    world.run(taken_after)
    before = sum(state.offered for state in node.reports[-1].assists)
    world.assign(node, spec, source=Source(assist, node.ref, before or 64))
    assert not node.core.intakes
    world.settle()
    world.expect_answer(spec)


@DEPTHS
@pytest.mark.parametrize("cut", [0, 1, 5, 9])
def test_a_later_attempt_goes_on_from_what_was_delivered(depth: int, cut: int) -> None:
    world = World()
    first, second = world.add("first", depth=depth), world.add("second", depth=depth)
    spec = make_spec("r", 100, max_tokens=10)
    world.assign(first, spec)
    world.run(until=lambda: len(world.log[spec.request_id]) >= cut)
    first.alive = False
    world.nodes.pop(first.ref)
    world.assign(second, spec, attempt=2)
    world.settle()
    world.expect_answer(spec)


@DEPTHS
def test_an_owner_that_was_superseded_stops_and_its_tokens_stay_out(depth: int) -> None:
    world = World()
    first, second = world.add("first", depth=depth), world.add("second", depth=depth)
    spec = make_spec("r", 100, max_tokens=30)
    world.assign(first, spec)
    world.run(0.2)
    world.assign(second, spec, attempt=2)
    world.settle()
    world.expect_answer(spec)
    assert (first.ref, DropOutput(spec.request_id, 1)) in world.notes


@DEPTHS
def test_preemption_with_thirty_requests_in_flight(depth: int) -> None:
    """Memory for about six of them: everybody gets the right answer, the oldest first, and nobody starves."""
    world = World()
    node = world.add("high", depth=depth, total_blocks=40, watermark_blocks=2)
    specs = [make_spec(f"r{at}", 60 + 7 * at % 90, max_tokens=12 + at % 20) for at in range(30)]
    for spec in specs:
        world.assign(node, spec)
    world.settle(200.0)
    for spec in specs:
        world.expect_answer(spec)
    assert any(story.what == "preempted" for story in node.stories)


@DEPTHS
def test_owned_work_takes_back_the_memory_of_head_starts(depth: int) -> None:
    world = World()
    node = world.add("only", depth=depth, total_blocks=24)
    world.order(node, make_spec("assisted", 320))
    world.run(1.0)
    assert node.core.assists
    spec = make_spec("owned", 300, max_tokens=20)
    world.assign(node, spec)
    world.settle()
    world.expect_answer(spec)
    assert any(story.what == "assist_dropped" for story in node.stories)


# --- transfers that go wrong ---------------------------------------------------------------------------------------

GRANULE_BYTES = 64 * 16


@DEPTHS
@pytest.mark.parametrize("bad", range(5))
def test_a_corrupt_granule_is_recomputed_and_what_precedes_it_kept(depth: int, bad: int) -> None:
    world, _, high, spec, source = taken_at_320(depth)
    world.hub.inject(Fault(corrupt=(bad * GRANULE_BYTES + 7,)))
    world.assign(high, spec, source=source)
    world.settle()
    world.expect_answer(spec)
    assert good_tokens(high) == [bad * 64]


FAULTS = {
    "lost": Fault(lose=True),
    "truncated": Fault(truncate_to=100),
    "empty": Fault(truncate_to=0),
    "duplicate": Fault(duplicate=True),
    "late": Fault(delay_s=1.0),
    "too late": Fault(delay_s=10.0),
    "of an older attempt": Fault(header=lambda header: replace(header, attempt=header.attempt - 1)),
    "of another request": Fault(header=lambda header: replace(header, request_id="other")),
    "of another layout": Fault(header=lambda header: replace(header, fingerprint=b"other")),
    "refused in the header": Fault(header=lambda header: replace(header, error="cannot")),
}


@DEPTHS
@pytest.mark.parametrize("what", FAULTS)
def test_a_bad_transfer_costs_time_and_never_a_token(depth: int, what: str) -> None:
    world, low, high, spec, source = taken_at_320(depth)
    world.hub.inject(FAULTS[what])
    world.assign(high, spec, source=source)
    world.run(20.0)
    if what == "lost":
        assert high.transport.arena.quarantined_bytes > 0
        high.feed(PeerLost(low.ref))
    world.settle()
    world.expect_answer(spec)
    assert good_tokens(high) == [320 if what in ("duplicate", "late") else 0]
    assert high.transport.arena.quarantined_bytes == 0


@DEPTHS
def test_a_sender_that_stalls_and_wakes_writes_only_into_quarantine(depth: int) -> None:
    """1 the sender stalls, 2 the owner's deadline passes and it computes, 3 the sender wakes and writes, 4 nobody is hurt."""
    world, low, high, spec, source = taken_at_320(depth)
    world.hub.inject(Fault(stall=True))
    world.assign(high, spec, source=source)
    world.run(2.5)
    assert high.transport.arena.quarantined_bytes > 0
    assert low.core.blocks.counts().in_flight > 0
    others = [make_spec(f"other{at}", 200) for at in range(5)]
    for other in others:
        world.assign(high, other)
    world.run(0.1)
    world.hub.wake(low.ref)
    world.settle()
    for each in [spec, *others]:
        world.expect_answer(each)
    assert high.transport.arena.free_bytes == high.transport.arena.capacity


@DEPTHS
def test_a_refused_pull_is_computed(depth: int) -> None:
    world, low, high, spec, source = taken_at_320(depth)
    low.feed(ReleaseAssist(source.assist))
    world.assign(high, spec, source=source)
    world.settle()
    world.expect_answer(spec)
    assert [story.data["reason"] for story in high.stories if story.what == "pull_refused"] == ["no such assist"]


@DEPTHS
def test_the_giver_dies_before_it_sends(depth: int) -> None:
    world, low, high, spec, source = taken_at_320(depth)
    world.nodes.pop(low.ref)
    world.assign(high, spec, source=source)
    world.settle()
    world.expect_answer(spec)


def taken_at_320(depth: int) -> tuple[World, Node, Node, RequestSpec, Source]:
    """A head start of five granules, ready to be taken."""
    world = World()
    low, high = world.add("low", depth=depth), world.add("high", depth=depth)
    spec = make_spec("r", 400)
    assist = world.order(low, spec, limit=320)
    world.run(1.0)
    return world, low, high, spec, Source(assist, low.ref, 320)


def good_tokens(node: Node) -> list[object]:
    return [story.data["good_tokens"] for story in node.stories if story.what == "pulled"]


# --- ends at every moment ------------------------------------------------------------------------------------------


@DEPTHS
@pytest.mark.parametrize("event", range(0, 40, 3))
def test_cancel_at_every_moment(depth: int, event: int) -> None:
    """Within prefill, pull, decode and after the end: everything is free again, on both sides."""
    world, low, high, spec, source = taken_at_320(depth)
    beside = make_spec("beside", 100, max_tokens=20)
    world.assign(high, beside)
    world.assign(high, spec, source=source)
    world.run(event * 0.01)
    high.feed(Cancel(spec.request_id))
    high.feed(Cancel(spec.request_id))
    world.settle()
    world.expect_prefix(spec)
    world.expect_answer(beside)
    whole = len(world.log[spec.request_id]) == spec.sampling.max_tokens
    assert world.finish[spec.request_id] == (FinishReason.LENGTH if whole else Phase.CANCELLED)
    assert not low.core.assists


@DEPTHS
@pytest.mark.parametrize("index", range(10))
def test_a_stop_string_at_every_index(depth: int, index: int) -> None:
    world = World()
    node = world.add("high", depth=depth)
    spec = make_spec("r", 100, max_tokens=10)
    world.stops[spec.request_id] = index
    world.assign(node, spec)
    world.settle()
    world.expect_prefix(spec)
    assert len(world.log[spec.request_id]) == index + 1
    assert world.finish[spec.request_id] is FinishReason.STOP


@DEPTHS
def test_eos_ends_a_choice_unless_it_is_to_be_ignored(depth: int) -> None:
    world = World(FakeModel(vocab_size=8, max_model_tokens=2048))
    node = world.add("high", depth=depth)
    specs = [make_spec(f"r{at}", 50 + at, max_tokens=40, ignore_eos=at % 4 == 0) for at in range(12)]
    for spec in specs:
        world.assign(node, spec)
    world.settle()
    for spec in specs:
        world.expect_answer(spec)
    assert {world.finish[spec.request_id] for spec in specs} == {FinishReason.STOP, FinishReason.LENGTH}


@DEPTHS
def test_the_models_length_ends_a_choice(depth: int) -> None:
    world = World(FakeModel(max_model_tokens=110))
    node = world.add("high", depth=depth)
    spec, endless = make_spec("r", 100, max_tokens=50), make_spec("too-long", 110)
    world.assign(node, spec)
    world.assign(node, endless)
    world.settle()
    world.expect_answer(spec)
    assert len(world.log[spec.request_id]) == 10
    assert world.finish[endless.request_id] is Phase.FAILED


# --- drains --------------------------------------------------------------------------------------------------------


@DEPTHS
@pytest.mark.parametrize("deadline", [0.0, 0.05, 0.3, 30.0])
def test_a_drain_hands_back_what_is_not_finished(depth: int, deadline: float) -> None:
    world = World()
    node, other = world.add("leaving", depth=depth), world.add("staying", depth=depth)
    specs = [make_spec(f"r{at}", 50 + 90 * at, max_tokens=10) for at in range(6)]
    for spec in specs:
        world.assign(node, spec)
    world.run(0.1)
    node.feed(Drain(deadline))
    assert node.reports[-1].state is WorkerState.DRAINING
    assert node.reports[-1].credit == Credit(0, 0, 0)
    world.run(deadline + 5.0, until=lambda: node.core.drained)
    assert node.core.drained
    for returned in node.core.returned.values():
        spec = next(spec for spec in specs if spec.request_id == returned.request_id)
        world.assign(other, spec, attempt=2)
    world.settle()
    for spec in specs:
        world.expect_answer(spec)


@DEPTHS
def test_a_draining_giver_stays_for_who_pulls(depth: int) -> None:
    world, low, high, spec, source = taken_at_320(depth)
    low.feed(Drain(30.0))
    assert low.reports[-1].assists[0].stopped
    world.assign(high, spec, source=source)
    world.settle()
    world.expect_answer(spec)
    assert good_tokens(high) == [320]
    assert low.core.drained


# --- steps that fail -----------------------------------------------------------------------------------------------


@DEPTHS
def test_a_failed_step_fails_nobody(depth: int) -> None:
    world = World()
    failing = {3, 4, 9} if depth == 2 else {3, 9}
    node = world.add("high", depth=depth, fault=lambda plan: "planned" if plan.step in failing else None)
    specs = [make_spec(f"r{at}", 60 + 50 * at) for at in range(5)]
    for spec in specs:
        world.assign(node, spec)
    world.settle()
    for spec in specs:
        world.expect_answer(spec)
    assert not node.core.returned


@DEPTHS
def test_only_the_sequence_that_fails_alone_is_handed_back_and_the_second_time_it_fails(depth: int) -> None:
    world = World()
    poison = 999
    node = world.add("high", depth=depth, fault=lambda plan: "poison" if poison in plan.token_ids else None)
    good = [make_spec(f"r{at}", 60 + 50 * at) for at in range(3)]
    bad = replace(make_spec("bad", 90), prompt=(1, 2, 3, poison))
    for spec in [good[0], bad, *good[1:]]:
        world.assign(node, spec)
    world.run(5.0)
    assert [(returned.request_id, returned.attempt) for returned in node.core.returned.values()] == [("bad", 1)]
    world.assign(node, bad, attempt=2)
    world.settle()
    for spec in good:
        world.expect_answer(spec)
    assert world.finish[bad.request_id] is Phase.FAILED
    assert node.core.state is WorkerState.READY


@DEPTHS
def test_an_engine_that_fails_always_takes_nothing_more(depth: int) -> None:
    world = World()
    node = world.add("broken", depth=depth, fault=lambda plan: "dead")
    specs = [make_spec(f"r{at}", 60) for at in range(5)]
    for spec in specs:
        world.assign(node, spec)
    world.run(5.0)
    assert node.core.drained
    assert sorted(node.core.returned) == sorted(spec.request_id for spec in specs)
