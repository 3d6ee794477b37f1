"""Events of every kind in any order, answers that nobody asked for included: the books stay whole and nothing raises."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.core import SchedulerCore
from scheduler.events import (
    Close,
    Deposed,
    Elected,
    EndWritten,
    FenceRaised,
    Joined,
    Known,
    Left,
    MoveBegun,
    Place,
    Placed,
    Reconnected,
    RecordClosed,
    Requeued,
    SchedulerCommand,
    SchedulerEvent,
    Tick,
)
from scheduler.settings import SchedulerSettings
from shared.fabric import FenceAnswer, WriteStatus
from shared.messages import Assign, AssistState, CancelAsked, Credit, GatewayBeat, ListenerChange, OwnedState, Report, Returned, WorkerState
from shared.types import AssistId, GatewayId, JobSeq, Phase, RequestId
from tests.unit.scheduler.support import FAST, SLOW, info, record, ref, submission

REQUESTS = st.sampled_from([RequestId(name) for name in "abcd"])
WORKERS = st.builds(ref, st.sampled_from(["fast", "slow"]), st.sampled_from(["1", "2"]))
GATEWAYS = st.sampled_from([GatewayId("g"), GatewayId("h")])
STATUS = st.sampled_from(WriteStatus)
ATTEMPTS = st.integers(1, 3)
SEQS = st.builds(JobSeq, st.integers(0, 3), st.integers(0, 9))
ASSISTS = st.builds(lambda seq: AssistId(f"{seq.epoch}.{seq.number}"), SEQS)
TOKENS = st.integers(0, 600)

SUBMISSIONS = st.builds(
    lambda name, n, timeout_s, background, gateway: submission(name, n=n, timeout_s=timeout_s, background=background, gateway=gateway),
    REQUESTS,
    st.sampled_from([1, 64, 300]),
    st.sampled_from([0.0, 4.0]),
    st.booleans(),
    st.sampled_from(["", "g"]),
)
RECORDS = st.builds(
    lambda wanted, phase, attempt, owner, cancel, crashes: record(wanted, phase, attempt, owner, cancel_asked=cancel, crashes=crashes),
    SUBMISSIONS,
    st.sampled_from(Phase),
    ATTEMPTS,
    st.none() | WORKERS,
    st.booleans(),
    st.integers(0, 3),
)
REPORTS = st.builds(
    Report,
    WORKERS,
    st.integers(1, 30),
    st.sampled_from([WorkerState.READY, WorkerState.READY, WorkerState.DRAINING]),
    SEQS,
    st.builds(Credit, st.sampled_from([0, 512]), st.sampled_from([0, 30, 500]), st.integers(0, 4)),
    st.lists(st.builds(OwnedState, REQUESTS, ATTEMPTS, TOKENS, TOKENS), max_size=3).map(tuple),
    st.lists(st.builds(AssistState, ASSISTS, REQUESTS, st.sampled_from([0, 64, 256]), st.booleans()), max_size=3).map(tuple),
    st.lists(REQUESTS, max_size=1).map(tuple),
    st.lists(st.builds(Returned, REQUESTS, ATTEMPTS, st.just("drawn")), max_size=1).map(tuple),
    st.none() | st.sampled_from([FAST, SLOW]),
)
ANSWERS = (
    st.builds(MoveBegun, REQUESTS, ATTEMPTS, STATUS)
    | st.builds(
        FenceRaised, REQUESTS, ATTEMPTS, st.builds(FenceAnswer, STATUS, st.integers(0, 9), st.none() | st.sampled_from([Phase.FINISHED]))
    )
    | st.builds(Requeued, REQUESTS, ATTEMPTS, st.integers(1, 400), STATUS)
    | st.builds(EndWritten, REQUESTS, ATTEMPTS, STATUS)
    | st.builds(RecordClosed, REQUESTS, STATUS)
    | st.builds(Placed, WORKERS, st.builds(Assign, SEQS, REQUESTS, ATTEMPTS, TOKENS), STATUS)
)
MEMBERS = st.builds(
    lambda name, incarnation: info(name, FAST if name == "fast" else SLOW, incarnation),
    st.sampled_from(["fast", "slow"]),
    st.sampled_from("12"),
)
OTHERS = (
    st.builds(Known, RECORDS)
    | st.builds(Joined, MEMBERS)
    | st.builds(Left, WORKERS)
    | st.builds(GatewayBeat, GATEWAYS, st.integers(0, 9))
    | st.builds(ListenerChange, REQUESTS, GATEWAYS, st.booleans())
    | st.builds(CancelAsked, REQUESTS)
    | st.builds(Elected, st.integers(1, 3))
    | st.sampled_from([Tick(), Tick(), Reconnected(), Deposed()])
)
STEPS = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 1.0, 4.0]), st.booleans(), REPORTS | ANSWERS | OTHERS), max_size=60)


def check_commands(core: SchedulerCore, commands: list[SchedulerCommand]) -> None:
    """What no shell may ever be asked: an end in no terminal phase, a source that is its own cut, a job without tokens."""
    for command in commands:
        if isinstance(command, Close):
            assert command.phase in (Phase.FINISHED, Phase.CANCELLED, Phase.FAILED), f"{core!r} {command}"
        if isinstance(command, Place) and isinstance(command.job, Assign) and command.job.source is not None:
            assert 0 < command.job.source.tokens < command.job.num_tokens


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(STEPS, st.sampled_from(["headstart", "fixed-cut"]))
def test_the_books_stay_whole_whatever_comes(steps: list[tuple[float, bool, SchedulerEvent]], policy: str) -> None:
    core = SchedulerCore(SchedulerSettings(policy=policy, cut_tokens=128))
    now, placed = 0.0, list[Place]()
    core.handle(Elected(1), now)
    for passed, answer, event in steps:
        now += passed
        commands = core.handle(event, now)
        core.check()
        check_commands(core, commands)
        placed += [command for command in commands if isinstance(command, Place)]
        if answer and placed:
            core.handle(Placed(placed[-1].worker, placed[-1].job, WriteStatus.DONE), now)
            core.check()
        repr(core)
