"""Failures that public threads of comparable systems tell of, each played against ours on fakes: a test for each, named after it.

Under the simulator every world is held to all of the oracle's rules: every request ends, its tokens, logprobs and text are those of the
run without faults, all blocks and all staging memory are free. Numbers are those of `docs/faults.md`, which also says what is not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from rich.console import Console

from cli.scale import ScaleSettings, _wait, describe
from cli.scale_plan import Kind, Launch, NoRoom, Stop, plan_scale
from scheduler.events import Joined, Placed, PublishLoad, Tick
from scheduler.handover_alarm import ALONE_S, UNTAKEN
from scheduler.handover_alarm import HandoverAlarm as SchedulerAlarm
from scheduler.simulation.answer import FAKE_MODEL
from scheduler.simulation.faults import PlannedFault, Scenario, Schedule
from scheduler.simulation.steps import Fault, Step
from scheduler.simulation.world import World
from shared.clock import ManualClock
from shared.errors import HeadstartError
from shared.fabric import WriteStatus
from shared.messages import AgentInfo, Assign, AssistOrder, ManagedState, ManagedWorker, Pull, PullRefused, Source, WorkerInfo
from shared.types import AssistId, JobSeq, RequestId, TokenSpan, TransferId
from tests.fault.test_found import HIGH, LOW, R1, assigned, make_core, only, ordered
from tests.unit.scheduler.support import FAST, LAYOUT, SLOW, Driver, info
from workers.core import WorkerCore
from workers.events import AbandonPull, PullEnded, SendKv, StartPull, StepDone, TellWorker
from workers.events import Launch as LaunchStep
from workers.fake_engine import FakeEngine
from workers.handover_alarm import BARREN
from workers.handover_alarm import HandoverAlarm as WorkerAlarm

KINDS = {"low": Kind("low"), "high": Kind("high")}
PULLS = Scenario(requests=5, stragglers=3, arrivals_per_s=40.0, high_blocks=26, low_blocks=32, cancel_share=0.0, leave_share=0.0)
SEEDS = range(8)


def play(*points: tuple[Step, Fault], occurrences: Sequence[int] = (1, 2), scenario: Scenario = PULLS, enough: int = 2) -> list[World]:
    """Worlds in which the faults strike at these occurrences of their steps, until `enough` of them met one; all rules hold in each."""
    found: list[World] = []
    for seed in SEEDS:
        faults = tuple(PlannedFault(step, occurrence, fault) for step, fault in points for occurrence in occurrences)
        world = World(Schedule(seed, scenario, faults))
        world.run()
        found += [world] if +world.plan.hit else []
        if len(found) == enough:
            break
    assert found, f"{points} never struck"
    return found


def finished(world: World) -> int:
    return world.oracle.outcomes["finished"]


def offered(tokens: int = 128) -> WorkerCore:
    """A low-end whose head start for `r1` offers `tokens`."""
    core, engine = make_core(LOW), FakeEngine(FAKE_MODEL)
    commands = core.handle(ordered("r1", 1), 0.0)
    while core.assists[AssistId("r1")].offer.tokens < tokens:
        (launch,) = [command for command in commands if isinstance(command, LaunchStep)]
        engine.launch(launch.plan)
        done = engine.collect()
        commands = core.handle(StepDone(done.step, done.token_ids, done.logprobs, done.seconds), 0.1)
    return core


def pull(core: WorkerCore, **changes: object) -> Pull:
    asked = Pull(TransferId(1), AssistId("r1"), R1, 1, TokenSpan(0, 64), HIGH, b"", core.settings.fingerprint)
    return replace(asked, **changes)  # type: ignore[arg-type]


def test_01_a_stale_kv_reference_after_block_reuse_is_recomputed() -> None:
    for world in play((Step.MESSAGE_PULL, Fault.LATE), (Step.TRANSFER, Fault.LATE_WRITE)):
        assert finished(world)


@pytest.mark.parametrize(
    "changes",
    [
        {"span": TokenSpan(64, 192)},
        {"span": TokenSpan(0, 65)},
        {"assist": AssistId("consumed")},
        {"request_id": RequestId("another")},
    ],
    ids=["beyond", "ragged", "consumed", "another's"],
)
def test_02_an_out_of_range_or_consumed_reference_is_refused(changes: dict[str, object]) -> None:
    core = offered()
    (told,) = only(core.handle(pull(core, **changes), 0.2), TellWorker)
    assert isinstance(told, TellWorker)
    assert isinstance(told.message, PullRefused)
    core.check()


@pytest.mark.parametrize(
    "moment",
    [Step.WORKER_AFTER_OFFER, Step.WORKER_SENDING, Step.WRITE_TELL_WORKER],
    ids=["after publish", "after the first byte", "before ack"],
)
def test_03_a_producer_that_dies_is_recomputed(moment: Step) -> None:
    fault = Fault.LOST_BEFORE if moment is Step.WRITE_TELL_WORKER else Fault.KILLED
    for world in play((moment, fault)):
        assert finished(world)


def test_04_a_producer_that_cannot_send_tells_its_consumer() -> None:
    core = make_core(HIGH)
    (start,) = only(core.handle(assigned("r1", 1, Source(AssistId("x"), LOW, 64)), 0.0), StartPull)
    assert isinstance(start, StartPull)
    commands = core.handle(PullRefused(start.transfer, LOW, "no staging memory"), 0.1)
    assert only(commands, AbandonPull) == [AbandonPull(start.transfer, LOW)]
    core.handle(PullEnded(start.transfer, 0, 0, 0.1, "refused"), 0.2)
    assert core.owned[R1].intake is None
    core.check()


def test_05_one_transient_failure_does_not_poison_a_pair() -> None:
    """A lost transfer, and a later one between the same two workers that brings what it should."""
    assert any(map(recovers, play((Step.TRANSFER, Fault.LOST), occurrences=(1,), scenario=replace(PULLS, requests=10), enough=6)))


def recovers(world: World) -> bool:
    pulls = [(line.who, line.thing) for line in world.trace if line.what.endswith(": pulled") and isinstance(line.thing, dict)]
    pairs = [((who, data["source"]), data["good_tokens"] == data["tokens"]) for who, data in pulls]
    return any(not good and (pair, True) in pairs[at:] for at, (pair, good) in enumerate(pairs))


def test_06_a_prefill_that_was_given_up_starts_no_decode_from_nothing() -> None:
    for world in play((Step.WORKER_GOT_ORDER, Fault.KILLED), (Step.MESSAGE_STOP_ASSIST, Fault.LOST)):
        assert finished(world)


def test_07_another_layout_is_refused_by_name() -> None:
    core = offered()
    (told,) = only(core.handle(pull(core, fingerprint=b"other block size, dtype or split"), 0.2), TellWorker)
    assert isinstance(told, TellWorker)
    assert isinstance(told.message, PullRefused)
    assert told.message.reason == "another KV layout"
    assert only(core.handle(pull(core, transfer=TransferId(2)), 0.3), SendKv)


def test_08_a_slow_or_lossy_link_costs_recomputation() -> None:
    faults = ((Step.TRANSFER, Fault.TRUNCATED), (Step.MESSAGE_PULL, Fault.LATE))
    for world in play(*faults):
        assert finished(world)


def test_09_an_engine_that_fails_its_steps_answers_nothing_empty() -> None:
    """The oracle compares a finished answer with the whole reference: an empty one is none."""
    for world in play((Step.ENGINE_STEP, Fault.FAILED), occurrences=(3, 4, 5, 9)):
        assert finished(world)


@pytest.mark.parametrize("stage", [0.01, 0.1], ids=["crowd", "trickle"])
def test_10_a_client_that_leaves_at_any_stage_frees_kv_on_both_sides(stage: float) -> None:
    leaving = replace(PULLS, leave_share=1.0, background_share=0.0, arrivals_per_s=1 / stage)
    for world in play((Step.MESSAGE_LISTENER_CHANGE, Fault.LATE), scenario=leaving):
        assert all(shell.core.idle for shell in world.workers if shell.alive)


def test_11_scale_down_with_queued_running_and_pulling_requests_loses_nothing() -> None:
    for world in play((Step.MESSAGE_DRAIN, Fault.LATE), scenario=replace(PULLS, drains=2)):
        assert any("leaves in good order" in line.what for line in world.trace)
        assert finished(world)


@pytest.mark.parametrize("want", [{"high": 1, "low": 1}, {"high": 0, "low": 0}], ids=["from zero", "to zero"])
def test_12_scaling_needs_no_traffic_and_no_profile(want: dict[str, int]) -> None:
    """Numbers are asked for, and devices measure themselves: nothing divides by a rate that is zero or waits for a missing figure."""
    there = () if want["high"] else (managed("a-high-1"), managed("a-low-1"))
    actions = plan_scale([agent(*there)], KINDS, want)
    assert {type(action) for action in actions} == {Launch if want["high"] else Stop}
    assert len(actions) == 2


async def test_12_what_cannot_be_scaled_is_said_at_once_or_at_a_deadline_and_never_pending_for_ever(
    capsys: pytest.CaptureFixture[str],
) -> None:
    one_device = {"high": Kind("high", devices=("cuda:0",))}
    actions = plan_scale([agent()], one_device, {"high": 3})
    assert [type(action) for action in actions] == [Launch, NoRoom]
    assert "no host has a place for 2 more high" in describe(actions[-1])
    settings = ScaleSettings("", "", "p", one_device, {"high": 3}, wait_s=0.01)
    with pytest.raises(HeadstartError, match=r"not done after 0.01 s: a-high-1"):
        await _wait(settings, Joins(), Joins(agent()), actions, Console())  # type: ignore[arg-type]
    given_up = replace(managed("a-high-1"), state=ManagedState.GIVEN_UP, complaint="no CUDA")
    with pytest.raises(HeadstartError, match="a-high-1 was given up after 1 crashes in a row: no CUDA"):
        await _wait(settings, Joins(), Joins(agent(given_up)), actions, Console())  # type: ignore[arg-type]


def test_12_who_waits_for_workers_that_are_not_there_is_told_so() -> None:
    """No profile, no prediction: the load says a wait all the same, and gateways refuse by it."""
    d = Driver()
    (load,) = [command for command in d.known("a") if isinstance(command, PublishLoad)]
    assert load == PublishLoad(1, d.core.settings.wait_without_owners_s)


class Joins:
    """Agents that never change, and a pool that nobody joins."""

    def __init__(self, *agents: AgentInfo) -> None:
        self._agents = agents

    async def agents(self) -> tuple[AgentInfo, ...]:
        return self._agents

    async def members(self) -> tuple[WorkerInfo, ...]:
        return ()


def agent(*rows: ManagedWorker) -> AgentInfo:
    return AgentInfo("a", "i", "p.a", 1, (), 4, rows)


def managed(name: str) -> ManagedWorker:
    return ManagedWorker(name, name.split("-")[1], ManagedState.RUNNING, 7)


def test_13_a_stream_broken_or_stalled_after_k_tokens_goes_on_behind_them() -> None:
    for world in play((Step.GATEWAY_FOLLOWING, Fault.KILLED), (Step.WORKER_APPENDED, Fault.STALLED), occurrences=(4, 9)):
        assert finished(world)
        assert all(client.settled for client in world.clients)


def test_14_a_dead_peer_takes_nobody_down() -> None:
    """Over real UCX: `test_ucx_kill_and_stall.py`."""
    for world in play((Step.WORKER_SENDING, Fault.KILLED), (Step.WORKER_RECEIVING, Fault.KILLED), occurrences=(1,)):
        assert world.oracle.crashes <= 2
        assert finished(world)


@pytest.mark.parametrize("layout", [LAYOUT, b"another"], ids=["same layout", "another layout"])
def test_15_a_low_end_that_nobody_can_take_from_is_said_so_once(layout: bytes, caplog: pytest.LogCaptureFixture) -> None:
    clock, causes = ManualClock(), list[str]()
    alarm = SchedulerAlarm(clock, causes.append)
    alarm.watch(Joined(replace(info("slow", SLOW, fingerprint=layout), role="low")), (), 0.0)
    alarm.watch(Joined(info("fast", FAST)), (), 0.0)
    for seconds in (ALONE_S - 0.1, 0.2, 60.0):
        alarm.watch(Tick(), (), 0.0)
        clock.advance(seconds)
    alarm.watch(Tick(), (), 0.0)
    assert causes == ([] if layout == LAYOUT else ["no_partner"])
    assert ("slow#1 is a low-end" in caplog.text) == (layout != LAYOUT)


@pytest.mark.parametrize("taken", [True, False])
def test_15_head_starts_that_nobody_takes_are_said_so(taken: bool) -> None:
    causes: list[str] = []
    alarm = SchedulerAlarm(ManualClock(), causes.append)
    order, source = AssistOrder(JobSeq(1, 1), AssistId("a"), R1, 64), Source(AssistId("a"), LOW, 64)
    for _ in range(UNTAKEN):
        alarm.watch(Placed(LOW, order, WriteStatus.DONE), (), 0.0)
        alarm.watch(Placed(HIGH, Assign(JobSeq(1, 2), R1, 1, 100, source if taken else None), WriteStatus.DONE), (), 0.0)
    assert causes == ([] if taken else ["not_taken"])


@pytest.mark.parametrize("good", [0, 64])
def test_15_pulls_that_bring_nothing_are_said_so_once(good: int, caplog: pytest.LogCaptureFixture) -> None:
    causes: list[str] = []
    alarm = WorkerAlarm(causes.append)
    for number in range(3 * BARREN):
        brought = good if number % BARREN == BARREN - 1 else 0
        alarm.watch([PullEnded(TransferId(number), brought, 0, 0.1, "deadline")], ())
    assert causes == ([] if good else ["pulls_fail"])
    assert ("UCX_TLS" in caplog.text) == (not good)


def test_16_what_went_wrong_with_a_transfer_is_told_with_its_figures() -> None:
    """And counted: `test_known_failures_counted.py`."""
    (world, *_) = play((Step.TRANSFER, Fault.CORRUPTED), occurrences=(1, 2, 3))
    pulled = [line.thing for line in world.trace if line.what.endswith(": pulled") and isinstance(line.thing, dict)]
    assert any(data["error"] and data["good_tokens"] < data["tokens"] for data in pulled)
