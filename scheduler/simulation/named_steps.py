"""The steps of the protocol by the names that `docs/protocol.md` gives them, and the points at which each can be hit.

The simulator's `Step` says where in the code a fault strikes; a named step says what of the protocol is under way there. A sweep
prints the list with its counts and fails if one of them was never hit.
"""

from __future__ import annotations

from collections.abc import Mapping

from scheduler.simulation.steps import LOSSES, POINTS, Fault, Point, Step

_STEPS: dict[str, tuple[Step, ...]] = {
    "header written": (Step.WRITE_CREATE_LOG,),
    "submission accepted": (Step.WRITE_SUBMIT, Step.GATEWAY_SUBMITTED),
    "submission read": (Step.MESSAGE_SUBMISSION,),
    "leader elected": (Step.SCHEDULER_ELECTED,),
    "leader's lease lost": (Step.WRITE_LEAD, Step.SCHEDULER_RENEWING),
    "worker joined": (Step.WRITE_JOIN,),
    "report made": (Step.MESSAGE_REPORT, Step.WRITE_TELL_SCHEDULER),
    "load published": (Step.WRITE_PUBLISH_LOAD,),
    "placement decided": (Step.SCHEDULER_BEFORE_PLACE,),
    "handed over: record and job": (Step.WRITE_PLACE_ASSIGN, Step.SCHEDULER_PLACED),
    "job read": (Step.MESSAGE_ASSIGN, Step.WORKER_GOT_ASSIGN),
    "head start ordered": (Step.WRITE_PLACE_ASSIST, Step.MESSAGE_ASSIST_ORDER, Step.WORKER_GOT_ORDER),
    "assist offered": (Step.WORKER_AFTER_OFFER,),
    "assist stopped": (Step.MESSAGE_STOP_ASSIST, Step.WRITE_COMMAND),
    "pull asked": (Step.WORKER_BEFORE_PULL, Step.MESSAGE_PULL),
    "pull refused": (Step.MESSAGE_PULL_REFUSED,),
    "pull given up": (Step.MESSAGE_ABANDON_TRANSFER,),
    "verified": (Step.WORKER_AFTER_PULL,),
    "release sent": (Step.MESSAGE_RELEASE_ASSIST, Step.WRITE_TELL_WORKER),
    "step computed": (Step.WORKER_BEFORE_STEP, Step.WORKER_AFTER_STEP, Step.ENGINE_STEP),
    "sequence preempted": (Step.WORKER_PREEMPTING,),
    "token logged": (Step.WRITE_APPEND, Step.WORKER_APPENDED),
    "token shown": (Step.MESSAGE_LOG_ENTRY, Step.GATEWAY_FOLLOWING),
    "terminal entry written": (Step.WRITE_APPEND_END, Step.WORKER_LAST_TOKEN),
    "ended without an owner": (Step.WRITE_END, Step.SCHEDULER_END_WRITTEN),
    "record closed": (Step.WRITE_CLOSE,),
    "dead letter kept": (Step.SCHEDULER_DEAD_WRITTEN, Step.WRITE_CLOSE_DEAD),
    "MOVING marked": (Step.WRITE_BEGIN_MOVE, Step.SCHEDULER_MOVE_BEGUN),
    "fence raised": (Step.WRITE_RAISE_FENCE, Step.SCHEDULER_FENCE_RAISED),
    "requeued": (Step.WRITE_REQUEUE, Step.SCHEDULER_REQUEUED),
    "older attempt revoked": (Step.MESSAGE_REVOKE,),
    "cancellation asked": (Step.WRITE_CANCEL, Step.MESSAGE_CANCEL_ASKED, Step.MESSAGE_CANCEL),
    "listener changed": (Step.WRITE_SET_LISTENER, Step.MESSAGE_LISTENER_CHANGE, Step.MESSAGE_GATEWAY_BEAT),
    "drain asked": (Step.MESSAGE_DRAIN, Step.WORKER_DRAINING),
    "worker left": (Step.WRITE_LEAVE,),
    "server away": (Step.SERVER,),
}
_POINTS: dict[str, tuple[Point, ...]] = {
    "pull sent": (
        (Step.WORKER_SENDING, Fault.KILLED),
        (Step.WORKER_SENDING, Fault.STALLED),
        (Step.TRANSFER, Fault.LOST),
        (Step.TRANSFER, Fault.DUPLICATED),
        (Step.TRANSFER, Fault.LATE_WRITE),
    ),
    "pull half received": (
        (Step.WORKER_RECEIVING, Fault.KILLED),
        (Step.WORKER_RECEIVING, Fault.STALLED),
        (Step.TRANSFER, Fault.TRUNCATED),
        (Step.TRANSFER, Fault.CORRUPTED),
    ),
    "server's last writes lost": LOSSES,
    "server's clock stepped": ((Step.CLOCK, Fault.FORWARD), (Step.CLOCK, Fault.BACK)),
    "server's clock stepped by an hour": ((Step.CLOCK, Fault.HOUR_FORWARD), (Step.CLOCK, Fault.HOUR_BACK)),
}

NAMED_STEPS: Mapping[str, tuple[Point, ...]] = {
    name: tuple(point for point in POINTS if point[0] in steps) for name, steps in _STEPS.items()
} | _POINTS


def hits(hit: Mapping[Point, int]) -> dict[str, int]:
    """How many faults struck at each named step."""
    return {name: sum(hit.get(point, 0) for point in points) for name, points in NAMED_STEPS.items()}


def named_table(hit: Mapping[Point, int]) -> str:
    """One line for each named step."""
    return "\n".join(f"{name:<40} {count:>7} faults" for name, count in hits(hit).items())
