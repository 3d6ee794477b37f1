"""One rule of `docs/protocol.md` per test: events in, and the very commands that come out."""

from __future__ import annotations

from typing import Any, TypeVar

import pytest

from shared.errors import ConfigError
from shared.messages import (
    AbandonTransfer,
    Assign,
    AssistOrder,
    AssistState,
    Cancel,
    Credit,
    OwnedState,
    Pull,
    PullRefused,
    ReleaseAssist,
    Report,
    Returned,
    Revoke,
    Source,
    StopAssist,
)
from shared.profile import Profile
from shared.types import AssistId, BlockId, FinishReason, JobSeq, Phase, RequestId, RequestSpec, TokenSpan, TransferId, WorkerId, WorkerRef
from tests.support.core_harness import make_spec
from workers.core import WorkerCore, WorkerSettings
from workers.events import (
    AbandonPull,
    Assigned,
    Closed,
    DropOutput,
    DropPeer,
    Emit,
    EndRequest,
    Launch,
    OpenOutput,
    Ordered,
    PeerLost,
    PullEnded,
    SendEnded,
    SendKv,
    SendReport,
    StartPull,
    StepDone,
    StepFailed,
    StopFound,
    Superseded,
    TellStory,
    TellWorker,
    Tick,
    Unloadable,
    WorkerCommand,
    WorkerEvent,
)

ME, PEER = WorkerRef(WorkerId("me"), "1"), WorkerRef(WorkerId("peer"), "1")
Command = TypeVar("Command")


class Bench:
    """A core on a bench: `do` gives the commands without stories and reports, which are kept apart."""

    def __init__(self, **changes: Any) -> None:
        figures: dict[str, Any] = {"block_tokens": 16, "total_blocks": 40, "token_budget": 128, "max_sequences": 4, **changes}
        self.core = WorkerCore(
            WorkerSettings(ref=ME, fingerprint=b"layout", max_model_tokens=1000, eos_token_ids=frozenset({0}), **figures)
        )
        self.now = 0.0
        self.jobs = 0
        self.launched: list[Launch] = []
        self.reports: list[Report] = []

    def do(self, event: WorkerEvent, now: float | None = None) -> list[WorkerCommand]:
        self.now = self.now if now is None else now
        commands = self.core.handle(event, self.now)
        self.core.check()
        self.launched += of(Launch, commands)
        self.reports += [command.report for command in of(SendReport, commands)]
        return [command for command in commands if not isinstance(command, TellStory | SendReport)]

    def assign(self, spec: RequestSpec, attempt: int = 1, generated: tuple[int, ...] = (), source: Source | None = None) -> list[Any]:
        self.jobs += 1
        job = Assign(JobSeq(1, self.jobs), spec.request_id, attempt, len(spec.prompt) + len(generated), source)
        return self.do(Assigned(job, spec, generated))

    def order(self, spec: RequestSpec, limit: int = 1000) -> list[Any]:
        self.jobs += 1
        return self.do(Ordered(AssistOrder(JobSeq(1, self.jobs), AssistId("a"), spec.request_id, limit), spec))

    def step(self, *tokens: int) -> list[WorkerCommand]:
        """The oldest launched step ends and samples these."""
        plan = self.launched.pop(0).plan
        assert len(tokens) == len(plan.samples)
        return self.do(StepDone(plan.step, tokens, (-1.0,) * len(tokens), 0.01))


def of(kind: type[Command], commands: list[Any]) -> list[Command]:
    return [command for command in commands if isinstance(command, kind)]


def chunks(launch: Launch) -> list[tuple[int, int]]:
    """(first position, tokens) of each sequence in the plan."""
    plan = launch.plan
    return [(int(plan.positions[start]), int(stop - start)) for start, stop in zip(plan.starts[:-1], plan.starts[1:], strict=True)]


SPEC = make_spec("r", 100, max_tokens=3, ignore_eos=False)
R = SPEC.request_id


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
    assert opened == OpenOutput(SPEC, 3, (5, 6))
    assert chunks(launch) == [(0, 102)]
    assert launch.plan.token_ids[-2:].tolist() == [5, 6]
    assert launch.plan.samples[0].index == 2
    assert bench.step(9) == [Emit(R, 3, 0, 2, (9,), (-1.0,), FinishReason.LENGTH)]


def test_an_attempt_with_nothing_left_to_generate_only_finishes() -> None:
    assert Bench().assign(SPEC, attempt=2, generated=(5, 6, 7)) == [
        OpenOutput(SPEC, 2, (5, 6, 7)),
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


# --- head starts ---------------------------------------------------------------------------------------------------

ASSISTED = make_spec("assisted", 300)


def test_a_head_start_offers_whole_granules_and_reports_each_rise_at_once() -> None:
    bench = Bench(token_budget=100)
    bench.order(ASSISTED, limit=200)
    offered = []
    while bench.launched:
        bench.step()
        offered.append(bench.reports[-1].assists)
    assert [states[0].offered for states in offered] == [64, 192]
    assert bench.core.assists[AssistId("a")].sequence.num_computed == 192


def test_a_head_start_never_computes_the_last_token() -> None:
    bench = Bench(token_budget=1000)
    bench.order(make_spec("exact", 256))
    assert chunks(bench.launched[0]) == [(0, 192)]


def test_a_stopped_head_start_keeps_what_it_offers_and_a_released_one_nothing() -> None:
    bench = Bench(token_budget=64)
    bench.order(ASSISTED)
    bench.do(StopAssist(AssistId("a"), PEER))
    bench.step()
    assert bench.launched == []
    assert bench.reports[-1].assists == (AssistState(AssistId("a"), ASSISTED.request_id, 64, stopped=True),)
    bench.do(ReleaseAssist(AssistId("a")))
    assert bench.core.blocks.free_blocks == 40


def test_a_release_that_overtakes_its_order_is_remembered() -> None:
    bench = Bench()
    bench.do(ReleaseAssist(AssistId("a")))
    assert bench.order(ASSISTED) == []
    assert not bench.core.assists


def test_a_head_start_nobody_asks_for_expires_when_the_scheduler_is_silent() -> None:
    bench = Bench()
    bench.order(ASSISTED, limit=128)
    bench.step()
    bench.do(Cancel(RequestId("something else")), now=50.0)
    bench.do(Tick(), now=100.0)
    assert bench.core.assists
    bench.do(Tick(), now=111.0)
    assert bench.reports[-1].assists == ()
    assert bench.core.idle


def pull(**changes: Any) -> Pull:
    given = {"transfer": TransferId(1), "assist": AssistId("a"), "request_id": ASSISTED.request_id, "attempt": 2, "span": TokenSpan(0, 128)}
    return Pull(**{**given, "requester": PEER, "address": b"address", "fingerprint": b"layout", **changes})


def offering() -> Bench:
    """128 tokens are offered."""
    bench = Bench()
    bench.order(ASSISTED, limit=128)
    bench.step()
    return bench


def test_a_pull_is_answered_by_a_send_of_the_sequences_blocks() -> None:
    bench = offering()
    blocks = tuple(bench.core.assists[AssistId("a")].sequence.blocks)
    assert bench.do(pull()) == [SendKv(TransferId(1), ASSISTED.request_id, 2, PEER, b"address", TokenSpan(0, 128), blocks)]
    assert bench.do(pull()) == []
    bench.do(ReleaseAssist(AssistId("a")))
    assert bench.core.blocks.counts().in_flight == 8
    bench.do(SendEnded(TransferId(1), PEER))
    assert bench.core.blocks.free_blocks == 40
    assert bench.do(pull()) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"assist": AssistId("b")}, "no such assist"),
        ({"request_id": RequestId("other")}, "the assist is of another request"),
        ({"span": TokenSpan(0, 192)}, "only 128 tokens are offered"),
        ({"span": TokenSpan(0, 100)}, "not whole granules"),
        ({"span": TokenSpan(64, 64)}, "not whole granules"),
        ({"fingerprint": b"other"}, "another KV layout"),
    ],
)
def test_a_pull_of_what_is_not_there_is_refused(changes: dict[str, Any], reason: str) -> None:
    bench = offering()
    assert bench.do(pull(**changes)) == [TellWorker(PEER, PullRefused(TransferId(1), ME, reason))]


def test_a_pull_behind_its_own_abandonment_is_nothing() -> None:
    bench = offering()
    bench.do(AbandonTransfer(TransferId(1), PEER))
    assert bench.do(pull()) == []


def test_owned_work_takes_the_memory_of_a_head_start_but_not_of_one_that_is_pulled() -> None:
    bench = Bench(total_blocks=10)
    bench.order(ASSISTED, limit=128)
    bench.step()
    bench.do(pull())
    bench.assign(SPEC)
    assert bench.launched[-1].plan.contexts.tolist() == [32]
    bench.do(SendEnded(TransferId(1), PEER))
    bench.step()
    assert chunks(bench.launched[-1]) == [(32, 68)]
    assert not bench.core.assists


# --- pulling -------------------------------------------------------------------------------------------------------

SOURCE = Source(AssistId("a"), PEER, 64)
RELEASE = TellWorker(PEER, ReleaseAssist(AssistId("a")))


def pulling(**changes: Any) -> Bench:
    bench = Bench(**changes)
    opened, start = bench.assign(SPEC, source=SOURCE)
    assert isinstance(opened, OpenOutput)
    assert start == StartPull(TransferId(1), R, 1, AssistId("a"), PEER, TokenSpan(0, 64), tuple(map(BlockId, range(4))), 2.0)
    return bench


def test_a_pulling_sequence_is_in_no_step_until_its_bytes_are_verified() -> None:
    bench = pulling()
    assert bench.core.blocks.counts().in_flight == 4
    release, launch = bench.do(PullEnded(TransferId(1), 64, 1024, 0.1))
    assert release == RELEASE
    assert isinstance(launch, Launch)
    assert chunks(launch) == [(64, 36)]


@pytest.mark.parametrize("good", [0, 63])
def test_bad_granules_are_recomputed(good: int) -> None:
    bench = pulling()
    release, launch = bench.do(PullEnded(TransferId(1), good, 0, 2.0, "digest"))
    assert release == RELEASE
    assert isinstance(launch, Launch)
    assert chunks(launch) == [(0, 100)]


def test_a_source_is_cut_to_whole_granules_and_never_holds_the_last_token() -> None:
    bench = Bench()
    whole = make_spec("whole", 128)
    _, start = bench.assign(whole, source=Source(AssistId("a"), PEER, 128))
    assert start.span == TokenSpan(0, 64)
    assert bench.assign(make_spec("short", 64), source=Source(AssistId("b"), PEER, 64))[1] == TellWorker(PEER, ReleaseAssist(AssistId("b")))


def test_the_deadline_of_a_pull_follows_the_profile_above_its_floor() -> None:
    slow = Profile(0.01, 0.0, 0.0, 0.0, 0.0, kv_bytes_per_token=1_000_000, link_s=1.0, link_bytes_per_s=64e6)
    bench = Bench(profile=slow)
    _, start = bench.assign(SPEC, source=SOURCE)
    assert start.deadline_s == pytest.approx(4 * (1.0 + 1.0))


@pytest.mark.parametrize("event", [PullRefused(TransferId(1), PEER, "gone"), PeerLost(PEER)])
def test_a_pull_without_hope_is_given_up_and_ends_with_its_event(event: WorkerEvent) -> None:
    bench = pulling()
    assert of(AbandonPull, bench.do(event)) == [AbandonPull(TransferId(1), PEER)]
    assert bench.core.blocks.counts().in_flight == 4
    assert chunks(of(Launch, bench.do(PullEnded(TransferId(1), 0, 0, 0.1, "abandoned")))[0]) == [(0, 100)]


def test_a_lost_peers_transport_side_is_destroyed() -> None:
    assert of(DropPeer, Bench().do(PeerLost(PEER))) == [DropPeer(PEER)]


def test_a_refusal_by_somebody_else_is_nothing() -> None:
    assert pulling().do(PullRefused(TransferId(1), ME, "gone")) == []


def test_a_transport_that_never_answers_is_asked_to_give_up() -> None:
    bench = pulling()
    assert bench.do(Tick(), now=3.9) == []
    assert bench.do(Tick(), now=4.0) == [AbandonPull(TransferId(1), PEER)]
    assert bench.do(Tick(), now=9.0) == []


def test_a_cancelled_pull_keeps_its_blocks_until_it_has_ended_and_releases_its_source() -> None:
    bench = pulling()
    assert bench.do(Cancel(R)) == [AbandonPull(TransferId(1), PEER), EndRequest(R, 1, Phase.CANCELLED)]
    assert bench.core.blocks.counts().in_flight == 4
    assert bench.do(PullEnded(TransferId(1), 64, 1024, 0.1)) == [RELEASE]
    assert bench.core.blocks.free_blocks == 40


def test_an_attempt_that_is_over_leaves_the_head_start_to_the_next() -> None:
    bench = pulling()
    assert bench.do(Superseded(R, 1)) == [AbandonPull(TransferId(1), PEER), DropOutput(R, 1)]
    assert bench.do(PullEnded(TransferId(1), 0, 0, 0.1, "abandoned")) == []


# --- reports -------------------------------------------------------------------------------------------------------


def test_an_idle_worker_has_all_its_credit() -> None:
    bench = Bench()
    bench.do(Tick())
    assert bench.reports[-1].credit == Credit(tokens=128, blocks=40, sequences=4)


def test_credit_is_what_the_coming_step_leaves() -> None:
    """Budget 128: the running step takes 100 of the prompt, then it decodes; 300 more are a backlog of two steps."""
    bench = Bench(expected_output_tokens=2)
    bench.assign(SPEC)
    assert bench.reports[-1].credit == Credit(tokens=127, blocks=33, sequences=3)
    bench.assign(make_spec("long", 300))
    bench.do(Tick(), now=1.0)
    assert bench.reports[-1].credit.tokens == 0


def test_credit_that_appears_is_told_at_once() -> None:
    bench = Bench()
    bench.assign(make_spec("long", 300))
    bench.do(Tick(), now=1.0)
    assert bench.reports[-1].credit.tokens == 0
    bench.step()
    count = len(bench.reports)
    bench.step()
    assert len(bench.reports) == count + 1
    assert bench.reports[-1].credit.tokens == 127


def test_head_starts_count_neither_against_tokens_nor_blocks() -> None:
    bench = Bench()
    bench.order(ASSISTED)
    bench.do(Tick(), now=1.0)
    assert bench.reports[-1].credit == Credit(tokens=128, blocks=40, sequences=3)


def test_reports_come_at_their_interval_and_count_up() -> None:
    bench = Bench()
    for now in (0.0, 0.2, 0.5, 0.6, 1.0):
        bench.do(Tick(), now=now)
    assert [report.counter for report in bench.reports] == [1, 2, 3]


def test_a_report_lists_everything() -> None:
    bench = Bench()
    bench.assign(SPEC)
    bench.step(5)
    bench.order(ASSISTED)
    bench.do(Tick(), now=1.0)
    report = bench.reports[-1]
    assert report.owned == (OwnedState(R, 1, 101, 100),)
    assert report.assists == (AssistState(AssistId("a"), ASSISTED.request_id, 0, stopped=False),)
    assert report.seen == JobSeq(1, 2)


def test_free_sequences_leave_room_when_a_choice_has_ended() -> None:
    bench = Bench()
    bench.assign(SPEC)
    assert bench.core.free_sequences == 3
    bench.step(0)
    assert bench.core.free_sequences == 4


def test_a_core_shows_what_it_is_doing() -> None:
    bench = Bench()
    bench.assign(SPEC)
    assert repr(bench.core) == (
        "<WorkerCore me#1 ready [running 1 | waiting 0 | pulling 0 | assists 0 | sends 0 | steps 1 | blocks 33/40 | budget 128]>"
    )


@pytest.mark.parametrize("changes", [{"depth": 3}, {"block_tokens": 24}, {"token_budget": 3}, {"watermark_blocks": 40}])
def test_settings_that_could_never_work_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Bench(**changes)
