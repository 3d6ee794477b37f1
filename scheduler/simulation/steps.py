"""Every step of the protocol at which something can go wrong, and what can go wrong there.

A *point* is a step and a fault. The simulator counts how often each step was met and each point was hit, so that the table
it prints says what a run of schedules has covered and what it has not.
"""

from __future__ import annotations

from enum import StrEnum

from shared.messages import (
    AbandonTransfer,
    Assign,
    AssistOrder,
    Cancel,
    CancelAsked,
    Control,
    Drain,
    GatewayBeat,
    Job,
    ListenerChange,
    PoolEvent,
    Pull,
    PullRefused,
    ReleaseAssist,
    Report,
    Revoke,
    StopAssist,
)


class Fault(StrEnum):
    LOST = "lost"
    LATE = "late"
    DUPLICATED = "duplicated"
    REORDERED = "reordered"
    LOST_BEFORE = "lost before its effect"
    LOST_AFTER = "answer lost after its effect"
    KILLED = "killed"
    STALLED = "stalled"
    AWAY = "away"
    RESTARTED = "restarted"
    TAIL_LOST = "restarted without its last writes"
    TRUNCATED = "truncated"
    CORRUPTED = "corrupted"
    LATE_WRITE = "late write"
    FAILED = "failed"
    FORWARD = "forward"
    BACK = "back"
    HOUR_FORWARD = "an hour forward"
    HOUR_BACK = "an hour back"


class Step(StrEnum):
    """`message`: as its reader meets it. `write`: as the server answers it. `worker`, `scheduler`: a moment of that process."""

    MESSAGE_SUBMISSION = "message Submission"
    MESSAGE_REPORT = "message Report"
    MESSAGE_GATEWAY_BEAT = "message GatewayBeat"
    MESSAGE_LISTENER_CHANGE = "message ListenerChange"
    MESSAGE_CANCEL_ASKED = "message CancelAsked"
    MESSAGE_ASSIGN = "message Assign"
    MESSAGE_ASSIST_ORDER = "message AssistOrder"
    MESSAGE_STOP_ASSIST = "message StopAssist"
    MESSAGE_RELEASE_ASSIST = "message ReleaseAssist"
    MESSAGE_CANCEL = "message Cancel"
    MESSAGE_REVOKE = "message Revoke"
    MESSAGE_PULL = "message Pull"
    MESSAGE_PULL_REFUSED = "message PullRefused"
    MESSAGE_ABANDON_TRANSFER = "message AbandonTransfer"
    MESSAGE_DRAIN = "message Drain"
    MESSAGE_LOG_ENTRY = "message LogEntry"
    WRITE_CREATE_LOG = "write create_log"
    WRITE_SUBMIT = "write submit"
    WRITE_CANCEL = "write cancel"
    WRITE_SET_LISTENER = "write set_listener"
    WRITE_TELL_SCHEDULER = "write tell_scheduler"
    WRITE_APPEND = "write append"
    WRITE_APPEND_END = "write append of the end"
    WRITE_RAISE_FENCE = "write raise_fence"
    WRITE_LEAD = "write lead"
    WRITE_PLACE_ASSIGN = "write place Assign"
    WRITE_PLACE_ASSIST = "write place AssistOrder"
    WRITE_COMMAND = "write command"
    WRITE_BEGIN_MOVE = "write begin_move"
    WRITE_REQUEUE = "write requeue"
    WRITE_END = "write end without an owner"
    WRITE_CLOSE = "write close"
    WRITE_CLOSE_DEAD = "write close with a dead letter"
    WRITE_TELL_WORKER = "write tell_worker"
    WRITE_JOIN = "write join"
    WRITE_LEAVE = "write leave"
    WRITE_PUBLISH_LOAD = "write publish_load"
    WORKER_GOT_ASSIGN = "worker got an assignment"
    WORKER_GOT_ORDER = "worker got an assist order"
    WORKER_BEFORE_STEP = "worker before a step"
    WORKER_AFTER_STEP = "worker after a step"
    WORKER_AFTER_OFFER = "worker after an offer"
    WORKER_BEFORE_PULL = "worker before a pull"
    WORKER_SENDING = "worker mid-transfer as sender"
    WORKER_RECEIVING = "worker mid-transfer as receiver"
    WORKER_AFTER_PULL = "worker after a pull"
    WORKER_PREEMPTING = "worker during preemption"
    WORKER_APPENDED = "worker after an append"
    WORKER_LAST_TOKEN = "worker after the last append, before close"
    WORKER_DRAINING = "worker while draining"
    SCHEDULER_ELECTED = "scheduler just elected"
    SCHEDULER_BEFORE_PLACE = "scheduler before a placement"
    SCHEDULER_PLACED = "scheduler after a placement"
    SCHEDULER_MOVE_BEGUN = "scheduler after begin_move"
    SCHEDULER_FENCE_RAISED = "scheduler after raise_fence"
    SCHEDULER_REQUEUED = "scheduler after requeue"
    SCHEDULER_END_WRITTEN = "scheduler after an end, before close"
    SCHEDULER_DEAD_WRITTEN = "scheduler after the end of a dead letter, before close"
    SCHEDULER_RENEWING = "scheduler renewing its lease"
    GATEWAY_FOLLOWING = "gateway while a client follows"
    GATEWAY_SUBMITTED = "gateway after a submission"
    TRANSFER = "transfer of KV"
    ENGINE_STEP = "engine step"
    SERVER = "server at a write"
    CLOCK = "clock of the server"


Point = tuple[Step, Fault]

MESSAGE_FAULTS = (Fault.LOST, Fault.LATE, Fault.DUPLICATED, Fault.REORDERED)
WRITE_FAULTS = (Fault.LOST_BEFORE, Fault.LOST_AFTER)
PROCESS_FAULTS = (Fault.KILLED, Fault.STALLED)

_FAULTS: dict[str, tuple[Fault, ...]] = {
    "message": MESSAGE_FAULTS,
    "write": WRITE_FAULTS,
    "worker": PROCESS_FAULTS,
    "scheduler": PROCESS_FAULTS,
    "gateway": (Fault.KILLED,),
    "transfer": (Fault.LOST, Fault.TRUNCATED, Fault.CORRUPTED, Fault.LATE_WRITE, Fault.DUPLICATED),
    "engine": (Fault.FAILED,),
    "server": (Fault.AWAY, Fault.RESTARTED),
    "clock": (Fault.FORWARD, Fault.BACK, Fault.HOUR_FORWARD, Fault.HOUR_BACK),
}
_EXACT: dict[Step, tuple[Fault, ...]] = {
    # Both are entries of a stream that is read again until they are had: they come late, never not at all.
    Step.MESSAGE_SUBMISSION: (Fault.LATE,),
    Step.MESSAGE_LOG_ENTRY: (Fault.LATE,),
}


def faults_of(step: Step) -> tuple[Fault, ...]:
    return _EXACT.get(step) or _FAULTS[step.value.partition(" ")[0]]


POINTS: tuple[Point, ...] = tuple((step, fault) for step in Step for fault in faults_of(step))

LOSSES: tuple[Point, ...] = ((Step.SERVER, Fault.TAIL_LOST),)
"""What only a server in default mode does: no seed aims there, a share of all worlds, drawn apart, has it besides."""

MESSAGE_STEPS: dict[type[Job | Control | PoolEvent], Step] = {
    Report: Step.MESSAGE_REPORT,
    GatewayBeat: Step.MESSAGE_GATEWAY_BEAT,
    ListenerChange: Step.MESSAGE_LISTENER_CHANGE,
    CancelAsked: Step.MESSAGE_CANCEL_ASKED,
    Assign: Step.MESSAGE_ASSIGN,
    AssistOrder: Step.MESSAGE_ASSIST_ORDER,
    StopAssist: Step.MESSAGE_STOP_ASSIST,
    ReleaseAssist: Step.MESSAGE_RELEASE_ASSIST,
    Cancel: Step.MESSAGE_CANCEL,
    Revoke: Step.MESSAGE_REVOKE,
    Pull: Step.MESSAGE_PULL,
    PullRefused: Step.MESSAGE_PULL_REFUSED,
    AbandonTransfer: Step.MESSAGE_ABANDON_TRANSFER,
    Drain: Step.MESSAGE_DRAIN,
}
