"""Owned requests, one rule of `docs/protocol.md` per test: events in, and the very commands that come out."""

from __future__ import annotations

import pytest

from shared.messages import Assign, Cancel, Returned, Revoke
from shared.types import FinishReason, JobSeq, Phase, RequestId
from tests.support.core_bench import SPEC, Bench, R, chunks, of
from tests.support.core_harness import make_spec
from workers.events import (
    Closed,
    Delivered,
    DropOutput,
    Emit,
    EndRequest,
    OpenOutput,
    StepFailed,
    StopFound,
    Superseded,
    Tick,
    Unloadable,
    WorkerEvent,
)

# --- an owned request ----------------------------------------------------------------------------------------------


def test_an_assignment_opens_its_output_and_launches_its_prefill() -> None:
    bench = Bench()
    opened, launch = bench.assign(SPEC)
    assert opened == OpenOutput(SPEC, 1, ())
    assert chunks(launch) == [(0, 100)]
    assert launch.plan.token_ids.tolist() == list(SPEC.prompt)
    assert [(sample.row, sample.index) for sample in launch.plan.samples] == [(99, 0)]


def test_tokens_are_emitted_in_order_and_the_last_one_carries_the_finish() -> None:
    bench = Bench()
    bench.assign(SPEC)
    first = bench.step(7)
    assert of(Emit, first) == [Emit(R, 1, 0, 0, (7,), (-1.0,))]
    assert chunks(bench.launched[0]) == [(100, 1)]
    assert of(Emit, bench.step(8)) == [Emit(R, 1, 0, 1, (8,), (-1.0,))]
    assert bench.step(9) == [Emit(R, 1, 0, 2, (9,), (-1.0,), FinishReason.LENGTH)]
    assert bench.core.blocks.free_blocks == 40
    assert list(bench.core.owned) == [R]
    bench.do(Closed(R, 1))
    assert bench.reports[-1].closed == (R,)
    assert bench.core.idle


def test_eos_stops_the_choice() -> None:
    bench = Bench()
    bench.assign(SPEC)
    assert bench.step(0) == [Emit(R, 1, 0, 0, (0,), (-1.0,), FinishReason.STOP)]


def test_the_next_attempt_goes_on_behind_what_was_delivered() -> None:
    bench = Bench()
    opened, launch = bench.assign(SPEC, attempt=3, generated=(5, 6))
    assert opened == OpenOutput(SPEC, 3, (Delivered((5, 6)),))
    assert chunks(launch) == [(0, 102)]
    assert launch.plan.token_ids[-2:].tolist() == [5, 6]
    assert launch.plan.samples[0].index == 2
    assert bench.step(9) == [Emit(R, 3, 0, 2, (9,), (-1.0,), FinishReason.LENGTH)]


def test_an_attempt_with_nothing_left_to_generate_only_finishes() -> None:
    assert Bench().assign(SPEC, attempt=2, generated=(5, 6, 7)) == [
        OpenOutput(SPEC, 2, (Delivered((5, 6, 7)),)),
        Emit(R, 2, 0, 3, (), (), FinishReason.LENGTH),
    ]


def test_the_second_step_of_two_refers_to_the_samples_of_the_first() -> None:
    bench = Bench(depth=2)
    _, first, second = bench.assign(SPEC)
    assert first.plan.inputs.tolist() == [-1] * 100
    assert (second.plan.inputs.tolist(), chunks(second)) == ([0], [(100, 1)])
    bench.step(7)
    assert bench.launched[1].plan.inputs.tolist() == [0]


def test_a_late_stop_drops_at_most_one_token_and_its_blocks_wait_for_the_step() -> None:
    bench = Bench(depth=2, total_blocks=10)
    bench.assign(SPEC)
    assert of(Emit, bench.step(0)) == [Emit(R, 1, 0, 0, (0,), (-1.0,), FinishReason.STOP)]
    assert (bench.core.blocks.free_blocks, bench.core.blocks.pending_blocks) == (9, 1)
    assert bench.step(5) == []
    assert bench.core.blocks.free_blocks == 10


def test_a_stop_string_ends_the_choice_without_a_word() -> None:
    bench = Bench()
    bench.assign(SPEC)
    bench.step(7)
    assert bench.do(StopFound(R, 1, 0, 0)) == []
    assert bench.step(8) == []
    assert bench.core.blocks.free_blocks == 40


@pytest.mark.parametrize(("error", "phase"), [("", Phase.CANCELLED), ("timeout", Phase.FAILED)])
def test_a_cancel_ends_the_request_once(error: str, phase: Phase) -> None:
    bench = Bench()
    bench.assign(SPEC)
    assert bench.do(Cancel(R, error)) == [EndRequest(R, 1, phase, error)]
    assert bench.do(Cancel(R, error)) == []
    assert bench.step(5) == []


def test_a_cancel_behind_the_last_token_leaves_the_log_to_decide() -> None:
    bench = Bench()
    bench.assign(SPEC)
    bench.step(0)
    assert bench.do(Cancel(R)) == []


@pytest.mark.parametrize("event", [Superseded(R, 1), Revoke(R, 2)])
def test_an_attempt_that_is_over_is_dropped_without_a_word(event: WorkerEvent) -> None:
    bench = Bench()
    bench.assign(SPEC)
    assert bench.do(event) == [DropOutput(R, 1)]
    assert bench.step(5) == []
    assert bench.assign(SPEC, attempt=1) == []
    assert bench.core.idle


@pytest.mark.parametrize("event", [Superseded(R, 1), Revoke(R, 2), Closed(R, 1), StopFound(R, 1, 0, 0)])
def test_words_about_an_older_attempt_touch_nothing(event: WorkerEvent) -> None:
    bench = Bench()
    bench.assign(SPEC, attempt=2)
    assert bench.do(event) == []
    assert bench.core.owned[R].attempt == 2
    assert not bench.core.owned[R].ended


def test_word_of_a_newer_attempts_end_ends_the_older_ones_too() -> None:
    bench = Bench()
    bench.assign(SPEC, attempt=1)
    assert bench.do(Superseded(R, 2)) == [DropOutput(R, 1)]


def test_a_newer_attempt_replaces_an_older_one_and_repeats_are_nothing() -> None:
    bench = Bench()
    bench.assign(SPEC, attempt=1)
    assert bench.assign(SPEC, attempt=2)[:2] == [DropOutput(R, 1), OpenOutput(SPEC, 2, ())]
    assert bench.assign(SPEC, attempt=2) == []
    assert bench.assign(SPEC, attempt=1) == []


def test_what_has_no_log_is_handed_back_so_that_the_scheduler_looks() -> None:
    bench = Bench()
    bench.do(Unloadable(Assign(JobSeq(1, 5), R, 2, 100), None))
    assert bench.reports[-1].returned == (Returned(R, 2, "the log is missing"),)
    assert bench.reports[-1].seen == JobSeq(1, 5)
    bench.do(Revoke(R, 3))
    bench.do(Tick(), now=1.0)
    assert not bench.core.returned


# --- steps ---------------------------------------------------------------------------------------------------------


def test_decodes_come_first_then_prefills_in_order_then_head_starts_within_the_budget() -> None:
    bench = Bench(token_budget=100)
    bench.assign(SPEC)
    bench.order(make_spec("assisted", 300))
    bench.assign(make_spec("second", 60))
    bench.assign(make_spec("third", 70))
    bench.step(5)
    assert chunks(bench.launched[-1]) == [(100, 1), (0, 60), (0, 39)]
    bench.step(6, 5)
    assert chunks(bench.launched[-1]) == [(101, 1), (60, 1), (39, 31), (0, 67)]


def test_results_that_overtake_wait_for_their_turn() -> None:
    bench = Bench(depth=2)
    bench.assign(SPEC)
    assert bench.do(StepFailed(2, "refused")) == []
    assert of(Emit, bench.step(7)) == [Emit(R, 1, 0, 0, (7,), (-1.0,))]
    assert list(bench.core.suspects) == [bench.core.owned[R].sequence]


def test_a_failed_step_is_repeated_by_one_sequence_at_a_time() -> None:
    bench = Bench()
    other = make_spec("other", 50)
    bench.assign(SPEC)
    bench.assign(other)
    bench.step(5)
    bench.do(StepFailed(bench.launched.pop(0).plan.step, "planned"))
    assert chunks(bench.launched[-1]) == [(100, 1)]
    bench.step(6)
    assert chunks(bench.launched[-1]) == [(0, 50)]
    bench.step(7)
    assert chunks(bench.launched[-1]) == [(101, 1), (50, 1)]


def test_what_fails_alone_is_handed_back() -> None:
    bench = Bench()
    bench.assign(SPEC)
    bench.do(StepFailed(1, "poison"))
    assert bench.do(StepFailed(2, "poison")) == [DropOutput(R, 1)]
    assert bench.reports[-1].returned == (Returned(R, 1, "failed: poison"),)
    assert bench.core.idle


def test_the_newest_request_is_preempted_and_waits_with_its_tokens() -> None:
    bench = Bench(total_blocks=8)
    old, new = make_spec("old", 62, max_tokens=20), make_spec("new", 62, max_tokens=20)
    bench.assign(old)
    bench.assign(new)
    bench.step(5)
    bench.step(5, 5)
    bench.step(5, 5)
    sequence = bench.core.owned[new.request_id].sequence
    assert chunks(bench.launched[-1]) == [(64, 1)]
    assert (sequence.num_tokens, sequence.num_computed, len(sequence.blocks)) == (64, 0, 0)


def test_a_request_that_outgrew_this_worker_is_handed_back() -> None:
    bench = Bench(total_blocks=7)
    bench.assign(make_spec("big", 112, max_tokens=20))
    bench.step(5)
    assert bench.reports[-1].returned == (Returned(RequestId("big"), 1, "needs more than the 7 blocks of this worker"),)
