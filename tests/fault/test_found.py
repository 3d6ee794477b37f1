"""What the simulator found, each as a small test of its own: seeds move when the generator does, these do not."""

from __future__ import annotations

import pytest

from scheduler.core import SchedulerCore
from scheduler.events import Elected, Joined, Known, Tick
from scheduler.simulation.answer import FAKE_MODEL
from scheduler.simulation.build import worker_info, worker_settings
from scheduler.simulation.faults import Scenario
from shared.clock import ManualClock
from shared.fabric import Record
from shared.fabric_model import FabricModel
from shared.messages import (
    AbandonTransfer,
    Assign,
    AssistOrder,
    Cancel,
    Credit,
    Report,
    Source,
    StopAssist,
    Submission,
    WorkerState,
)
from shared.types import NO_GATEWAY, AssistId, JobSeq, Phase, RequestId, RequestSpec, SamplingParams, WorkerId, WorkerRef
from workers.core import WorkerCore
from workers.events import (
    AbandonPull,
    Assigned,
    EndRequest,
    Ordered,
    SendReport,
    StartPull,
    TellWorker,
    WorkerCommand,
)
from workers.fake_engine import FakeEngine

LOW, HIGH = WorkerRef(WorkerId("low-0"), "a"), WorkerRef(WorkerId("high-0"), "b")
R1 = RequestId("r1")


def make_core(ref: WorkerRef) -> WorkerCore:
    engine = FakeEngine(FAKE_MODEL)
    return WorkerCore(worker_settings(worker_info(ref, engine), engine, Scenario()))


def make_spec(name: str, tokens: int = 130) -> RequestSpec:
    return RequestSpec(RequestId(name), "fake", tuple(range(1, tokens + 1)), SamplingParams(8, temperature=0.0), 0)


def assigned(name: str, number: int, source: Source | None = None) -> Assigned:
    spec = make_spec(name)
    return Assigned(Assign(JobSeq(1, number), spec.request_id, 1, len(spec.prompt), source), spec)


def ordered(name: str, number: int) -> Ordered:
    spec = make_spec(name)
    return Ordered(AssistOrder(JobSeq(1, number), AssistId(name), spec.request_id, 128), spec)


def only(commands: list[WorkerCommand], kind: type) -> list[WorkerCommand]:
    return [command for command in commands if isinstance(command, kind)]


def test_a_worker_full_of_head_starts_still_reads_a_job() -> None:
    """It may be the assignment of one of them; every leader would place it there again, for ever."""
    core = make_core(LOW)
    core.handle(ordered("x", 1), 0.0)
    core.handle(ordered("y", 2), 0.0)
    assert core.free_sequences == 0
    assert core.readable_jobs == 1
    core.handle(assigned("y", 3, Source(AssistId("y"), LOW, 64)), 0.0)
    assert list(core.owned) == ["y"]
    assert list(core.assists) == ["x"]


def test_owned_work_takes_the_place_of_a_head_start() -> None:
    core = make_core(LOW)
    core.handle(ordered("x", 1), 0.0)
    core.handle(ordered("y", 2), 0.0)
    core.handle(assigned("z", 3), 0.0)
    assert list(core.owned) == ["z"]
    assert list(core.assists) == ["x"]
    core.check()


def test_the_code_of_a_failure_reaches_the_end() -> None:
    core = make_core(HIGH)
    core.handle(assigned("r1", 1), 0.0)
    commands = core.handle(Cancel(R1, "not finished within 1 s", "timeout"), 0.1)
    assert only(commands, EndRequest) == [EndRequest(R1, 1, Phase.FAILED, "not finished within 1 s", "timeout")]


def test_the_sender_of_an_abandoned_pull_is_told() -> None:
    core = make_core(HIGH)
    (pull,) = only(core.handle(assigned("r1", 1, Source(AssistId("x"), LOW, 64)), 0.0), StartPull)
    assert isinstance(pull, StartPull)
    commands = core.handle(Cancel(R1), 0.1)
    assert only(commands, AbandonPull) == [AbandonPull(pull.transfer, LOW)]
    assert TellWorker(LOW, AbandonTransfer(pull.transfer, HIGH)) in commands


def test_an_ended_request_has_nothing_left_to_compute() -> None:
    core = make_core(HIGH)
    core.handle(assigned("r1", 1), 0.0)
    core.handle(Cancel(R1), 0.1)
    reports = only(core.handle(StopAssist(AssistId("none")), 1.0), SendReport)
    (own,) = [own for report in reports if isinstance(report, SendReport) for own in report.report.owned]
    assert own.num_computed == own.num_tokens


def report(ref: WorkerRef, seen: JobSeq) -> Report:
    return Report(ref, 1, WorkerState.READY, seen, Credit(100, 50, 2))


def test_a_leader_steps_down_when_a_worker_has_seen_a_later_leaders_job() -> None:
    core = SchedulerCore()
    core.handle(Elected(7), 0.0)
    core.handle(Joined(worker_info(HIGH, FakeEngine(FAKE_MODEL))), 0.0)
    submission = Submission(R1, 130, 8, 0, background=True)
    record = Record(R1, Phase.QUEUED, 1, None, False, 0, submission, NO_GATEWAY, 130)
    core.handle(report(HIGH, JobSeq(8, 1)), 0.1)
    assert not core.leads
    assert core.handle(Known(record), 0.2) == []
    assert core.handle(Tick(), 0.3) == []


def test_ids_of_an_emptied_stream_do_not_fall_behind_its_reader() -> None:
    """The server's clock was stepped back when the last request had just been closed: nobody saw the next one."""
    clock = ManualClock(100.0)
    fabric = FabricModel(clock)
    fabric.submit(Submission(R1, 1, 1, 0))
    ((position, _),) = fabric.read_submissions("0-0")
    fabric.close(R1, 1, Phase.CANCELLED)
    clock.now = 50.0
    fabric.submit(Submission(RequestId("r2"), 1, 1, 0))
    assert [found.request_id for _, found in fabric.read_submissions(position)] == ["r2"]


def test_a_worker_taken_for_dead_reads_on_where_it_was() -> None:
    clock = ManualClock(100.0)
    fabric = FabricModel(clock)
    fabric.tell_worker(LOW, StopAssist(AssistId("x")))
    ((position, _),) = fabric.read_control(LOW, "0-0")
    fabric.leave(LOW)
    clock.now = 50.0
    fabric.tell_worker(LOW, StopAssist(AssistId("y")))
    assert [message for _, message in fabric.read_control(LOW, position)] == [StopAssist(AssistId("y"))]


def test_a_server_that_lost_its_tail_goes_on_from_what_it_kept() -> None:
    clock = ManualClock(100.0)
    fabric = FabricModel(clock)
    fabric.submit(Submission(R1, 1, 1, 0))
    first = fabric.lead("one", 3.0)
    fabric.snapshot()
    clock.advance(1.0)
    fabric.submit(Submission(RequestId("r2"), 1, 1, 0))
    fabric.restore(0.0)
    assert len(fabric.all_records()) == 2
    fabric.restore(0.5)
    assert [record.request_id for record in fabric.all_records()] == [R1]
    clock.advance(10.0)
    assert fabric.lead("two", 3.0) > first


@pytest.mark.parametrize("back_s", [10.0, 3600.0])
def test_a_lease_does_not_outlive_its_leader_when_the_servers_clock_steps_back(back_s: float) -> None:
    """An expiry is a time of the server's wall clock: stepped back an hour, a dead leader's lease held everybody up for an hour."""
    clock = ManualClock(10_000.0)
    fabric = FabricModel(clock)
    first = fabric.lead("one", 3.0)
    clock.now -= back_s
    assert fabric.lead("two", 3.0) == 0
    clock.advance(3.0)
    assert fabric.lead("two", 3.0) > first
