"""Several choices of one request: the prompt once, blocks shared, and each choice a life of its own."""

from __future__ import annotations

import pytest

from shared.messages import Assign, Cancel, Drain, Revoke, Source
from shared.types import AssistId, FinishReason, JobSeq, Phase
from tests.support.core_bench import Bench, R, chunks, of
from tests.support.core_harness import Node, World, make_spec
from workers.events import Assigned, Delivered, Emit, EndRequest, Launch, StepDone, StopFound, TellStory, WorkerCommand

DEPTHS = pytest.mark.parametrize("depth", [1, 2])
THREE = make_spec("r", 100, max_tokens=3, n=3, temperature=1.0, ignore_eos=False)
"""Six whole blocks of 16 in common, then four tokens."""


def forked(**changes: int) -> Bench:
    """The prompt is computed, the first choice has its first token."""
    bench = Bench(**changes)
    bench.assign(THREE)
    bench.step(7)
    return bench


def emitted(commands: list[WorkerCommand]) -> list[tuple[int, int, tuple[int, ...], FinishReason | None]]:
    return [(emit.choice, emit.index, emit.token_ids, emit.finish) for emit in of(Emit, commands)]


# --- one rule each


def test_the_prompt_is_computed_once_and_the_others_start_behind_its_whole_blocks() -> None:
    bench = Bench()
    _, launch = bench.assign(THREE)
    assert chunks(launch) == [(0, 100)]
    assert emitted(bench.step(7)) == [(0, 0, (7,), None)]
    assert chunks(bench.launched[0]) == [(100, 1), (96, 4), (96, 4)]
    assert [(s.choice, s.index) for s in bench.launched[0].plan.samples] == [(0, 1), (1, 0), (2, 0)]
    assert emitted(bench.step(8, 5, 6)) == [(0, 1, (8,), None), (1, 0, (5,), None), (2, 0, (6,), None)]


def test_whole_blocks_are_counted_once() -> None:
    bench = forked()
    tables = [sequence.blocks for sequence in bench.core.owned[R].choices]
    assert [table[:6] for table in tables] == [tables[0][:6]] * 3
    assert len({table[6] for table in tables}) == 3
    assert bench.core.blocks.free_blocks == 40 - 6 - 3


def test_a_short_prompt_has_nothing_in_common() -> None:
    bench = Bench()
    _, launch = bench.assign(make_spec("r", 16, n=2, temperature=1.0))
    assert chunks(launch) == [(0, 16), (0, 16)]


def test_a_first_token_that_is_the_last_leaves_the_prompt_to_the_others() -> None:
    bench = Bench()
    bench.assign(make_spec("r", 100, max_tokens=1, n=3, temperature=1.0))
    assert emitted(bench.step(7)) == [(0, 0, (7,), FinishReason.LENGTH)]
    assert chunks(bench.launched[0]) == [(96, 4), (96, 4)]
    assert emitted(bench.step(8, 9))[-1] == (2, 0, (9,), FinishReason.LENGTH)
    assert bench.core.blocks.free_blocks == 40


def test_each_choice_ends_by_itself_and_the_request_with_the_last() -> None:
    bench = forked()
    assert emitted(bench.step(0, 5, 6))[0] == (0, 1, (0,), FinishReason.STOP)
    assert not bench.core.owned[R].ended
    assert chunks(bench.launched[0]) == [(100, 1), (100, 1)]
    assert bench.core.blocks.free_blocks == 40 - 6 - 2
    bench.step(8, 0)
    bench.step(9)
    assert bench.core.owned[R].ended
    assert bench.core.blocks.free_blocks == 40
    assert bench.core.owned[R].num_tokens == 100 + 2 + 3 + 2


def test_a_stop_string_ends_one_choice() -> None:
    bench = forked()
    bench.step(8, 5, 6)
    bench.do(StopFound(R, 1, 1, 0))
    assert emitted(bench.step(9, 9, 9)) == [(0, 2, (9,), FinishReason.LENGTH), (2, 1, (9,), None)]
    assert bench.do(StopFound(R, 1, 1, 0)) == []


def test_a_cancel_ends_all_of_them() -> None:
    bench = forked()
    assert bench.do(Cancel(R)) == [EndRequest(R, 1, Phase.CANCELLED)]
    assert bench.step(1, 1, 1) == []
    assert bench.core.blocks.free_blocks == 40


def test_a_finished_choice_stays_finished_and_the_others_go_on_behind_their_own_tokens() -> None:
    bench = Bench()
    known = (Delivered((5, 0), FinishReason.STOP), Delivered((6, 7)))
    opened, launch = bench.do(Assigned(Assign(JobSeq(1, 1), R, 2, 102), THREE, known))
    assert opened.delivered == known  # type: ignore[union-attr]
    assert chunks(launch) == [(0, 102)]  # type: ignore[arg-type]
    assert emitted(bench.step(9)) == [(1, 2, (9,), FinishReason.LENGTH)]
    assert chunks(bench.launched[0]) == [(96, 4)]
    assert emitted(bench.step(4)) == [(2, 0, (4,), None)]


def test_an_attempt_that_finds_every_choice_finished_ends_the_request() -> None:
    bench = Bench()
    known = tuple(Delivered((5, 0), FinishReason.STOP) for _ in range(3))
    commands = bench.do(Assigned(Assign(JobSeq(1, 1), R, 2, 102), THREE, known))
    assert commands[1:] == [EndRequest(R, 2, Phase.FINISHED)]


def test_choices_take_places_and_are_in_the_credit() -> None:
    bench = Bench(max_sequences=4)
    bench.assign(THREE)
    assert bench.core.free_sequences == 1
    credit = bench.core.credit()
    assert credit.tokens == 128 - 1 - 2 * 4
    assert credit.blocks == 40 - 7 - 2


def test_more_choices_than_rows_take_turns() -> None:
    bench = Bench(max_sequences=2, token_budget=128)
    bench.assign(THREE)
    bench.step(7)
    seen: list[tuple[int, int]] = []
    while bench.launched:
        assert len(bench.launched[0].plan.contexts) <= 2
        seen += [(emit.choice, emit.index) for emit in of(Emit, bench.step(*[5] * len(bench.launched[0].plan.samples)))]
    assert sorted(seen) == [(choice, index) for choice in range(3) for index in range(3) if (choice, index) != (0, 0)]


def test_a_preempted_choice_takes_the_prompt_back_from_one_that_kept_it() -> None:
    bench = Bench(total_blocks=10)
    bench.assign(make_spec("r", 100, max_tokens=40, n=3, temperature=1.0))
    computed: list[tuple[int, int]] = []
    stories: list[str] = []
    while bench.launched:
        plan = bench.launched.pop(0).plan
        computed += chunks(Launch(plan))
        commands = bench.core.handle(StepDone(plan.step, (5,) * len(plan.samples), (0.0,) * len(plan.samples), 0.01), 0.0)
        bench.core.check()
        bench.launched += of(Launch, commands)
        stories += [story.what for story in of(TellStory, commands)]
    assert "preempted" in stories
    assert [start for start, _ in computed].count(0) == 1, "nobody computed the prompt again"
    assert bench.core.owned[R].ended


def test_top_logprobs_go_to_the_choice_that_asked() -> None:
    bench = Bench()
    bench.assign(make_spec("r", 20, top_logprobs=2))
    plan = bench.launched.pop(0).plan
    best = ((7, -0.1), (8, -2.0))
    (emit,) = of(Emit, bench.do(StepDone(plan.step, (7,), (-0.1,), 0.01, (best,))))
    assert emit.top_logprobs == (best,)


# --- whole journeys


@DEPTHS
def test_every_choice_gets_its_own_answer_among_others(depth: int) -> None:
    world = World()
    node = world.add("high", depth=depth)
    specs = [
        make_spec(f"r{at}", 30 + 50 * at, max_tokens=5 + at, n=1 + at % 4, temperature=1.0, frequency_penalty=at % 2) for at in range(6)
    ]
    for spec in specs:
        world.assign(node, spec)
    world.settle()
    for spec in specs:
        world.expect_answer(spec)


@DEPTHS
@pytest.mark.parametrize("tokens", [9, 200])
def test_choices_under_little_memory(depth: int, tokens: int) -> None:
    """Memory for about three sequences: choices yield to one another and to older requests, and all of them end."""
    world = World()
    node = world.add("high", depth=depth, total_blocks=26, watermark_blocks=1, expected_output_tokens=4)
    specs = [make_spec(f"r{at}", 40 + 60 * (at % 3), max_tokens=tokens // (1 + at), n=1 + at % 4, temperature=1.0) for at in range(6)]
    for spec in specs:
        world.assign(node, spec)
    world.settle(400.0)
    for spec in specs:
        world.expect_answer(spec)


@DEPTHS
@pytest.mark.parametrize("cut", [1, 6, 19])
def test_the_next_owner_goes_on_with_each_choice_where_it_was(depth: int, cut: int) -> None:
    world = World()
    first, second = world.add("first", depth=depth), world.add("second", depth=depth)
    spec = make_spec("r", 100, max_tokens=20, n=3, temperature=1.0, presence_penalty=0.7)
    world.stops[spec.request_id] = 200
    world.assign(first, spec)
    world.run(until=lambda: len(world.tokens(spec, 1)) >= cut)
    first.alive = False
    world.nodes.pop(first.ref)
    world.assign(second, spec, attempt=2)
    world.settle()
    world.expect_answer(spec)


@DEPTHS
def test_a_head_start_is_pulled_once_for_all_choices(depth: int) -> None:
    world = World()
    low, high = world.add("low", depth=depth), world.add("high", depth=depth)
    spec = make_spec("r", 300, max_tokens=8, n=3, temperature=1.0)
    assist = world.order(low, spec)
    world.run(1.0)
    world.assign(high, spec, source=Source(assist, low.ref, 256))
    world.settle()
    world.expect_answer(spec)
    assert [story.data["good_tokens"] for story in high.stories if story.what == "pulled"] == [256]


@DEPTHS
def test_the_giver_of_a_head_start_goes_on_with_all_choices(depth: int) -> None:
    world = World()
    node = world.add("only", depth=depth)
    spec = make_spec("r", 300, max_tokens=8, n=2, temperature=1.0)
    assist = world.order(node, spec)
    world.run(1.0)
    world.assign(node, spec, source=Source(AssistId(assist), node.ref, 256))
    world.settle()
    world.expect_answer(spec)


@DEPTHS
def test_a_drain_hands_back_what_is_not_finished(depth: int) -> None:
    world = World()
    first, second = world.add("first", depth=depth), world.add("second", depth=depth)
    spec = make_spec("r", 100, max_tokens=40, n=2, temperature=1.0)
    world.assign(first, spec)
    world.run(until=lambda: len(world.tokens(spec, 1)) >= 5)
    first.feed(Drain(0.0))
    assert first.reports[-1].returned[0].request_id == spec.request_id
    world.assign(second, spec, attempt=2)
    first.feed(Revoke(spec.request_id, 2))
    world.settle()
    world.expect_answer(spec)


@DEPTHS
def test_a_step_that_fails_once_costs_no_choice_a_token(depth: int) -> None:
    world = World()
    steps: list[int] = []

    def fault(plan: object) -> str | None:
        steps.append(1)
        return "planned" if len(steps) in (3, 12) else None

    node: Node = world.add("high", fault, depth=depth)
    spec = make_spec("r", 100, max_tokens=12, n=4, temperature=1.0)
    world.assign(node, spec)
    world.settle()
    world.expect_answer(spec)
