"""What can happen to the scheduler core, and what it can ask its shell to do.

Each fabric write is a command that ends in exactly one event with the fabric's answer; a write whose answer was lost is
simply commanded again, because every one can be repeated.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.fabric import FenceAnswer, Record, WriteStatus
from shared.messages import CancelAsked, Control, GatewayBeat, Job, ListenerChange, Report, WorkerInfo
from shared.types import MoveCause, Phase, RequestId, WorkerRef

# --- events ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Elected:
    """This scheduler leads under `epoch`. Followed by `Known` for every live request and `Joined` for every member."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Deposed:
    """Another leads, or nobody knows: decide nothing, forget everything."""


@dataclass(frozen=True, slots=True)
class Known:
    """A live request: just submitted, found by a new leader, or read again (`Reread`). The record says where it stands."""

    record: Record
    age_s: float = 0.0
    """Seconds since its submission by the shell's wall clock, at least 0: what of `timeout_s` has passed already."""


@dataclass(frozen=True, slots=True)
class Joined:
    info: WorkerInfo


@dataclass(frozen=True, slots=True)
class Left:
    """A worker took its leave in good order."""

    ref: WorkerRef


@dataclass(frozen=True, slots=True)
class Placed:
    """The fabric's answer to `Place`."""

    worker: WorkerRef
    job: Job
    status: WriteStatus


@dataclass(frozen=True, slots=True)
class MoveBegun:
    request_id: RequestId
    attempt: int
    status: WriteStatus


@dataclass(frozen=True, slots=True)
class FenceRaised:
    request_id: RequestId
    attempt: int
    """The new attempt: nobody below it can write."""
    answer: FenceAnswer


@dataclass(frozen=True, slots=True)
class Requeued:
    request_id: RequestId
    attempt: int
    num_tokens: int
    status: WriteStatus


@dataclass(frozen=True, slots=True)
class EndWritten:
    """The scheduler's own terminal entry (cancelled, deadline, dead letter) is in the log, or was refused."""

    request_id: RequestId
    attempt: int
    status: WriteStatus


@dataclass(frozen=True, slots=True)
class RecordClosed:
    request_id: RequestId
    status: WriteStatus


@dataclass(frozen=True, slots=True)
class Reconnected:
    """The server was away: everybody gets a full liveness period again."""


@dataclass(frozen=True, slots=True)
class Tick:
    pass


SchedulerEvent = (
    Elected
    | Deposed
    | Known
    | Joined
    | Left
    | Report
    | GatewayBeat
    | ListenerChange
    | CancelAsked
    | Placed
    | MoveBegun
    | FenceRaised
    | Requeued
    | EndWritten
    | RecordClosed
    | Reconnected
    | Tick
)

# --- commands ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """`Fabric.place`: answered by `Placed`."""

    worker: WorkerRef
    job: Job


@dataclass(frozen=True, slots=True)
class Command:
    """`Fabric.command`: a control message; nothing waits for its answer, reports heal its loss."""

    worker: WorkerRef
    message: Control


@dataclass(frozen=True, slots=True)
class BeginMove:
    request_id: RequestId
    attempt: int


@dataclass(frozen=True, slots=True)
class RaiseFence:
    request_id: RequestId
    attempt: int
    """The new attempt."""


@dataclass(frozen=True, slots=True)
class Requeue:
    request_id: RequestId
    attempt: int
    num_tokens: int
    cause: MoveCause


@dataclass(frozen=True, slots=True)
class WriteEnd:
    """The terminal entry of a request that has no owner, under `attempt`."""

    request_id: RequestId
    attempt: int
    phase: Phase
    error: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True)
class Close:
    request_id: RequestId
    attempt: int
    phase: Phase
    dead_letter: bool = False
    """Crashes ended it: it is kept for an operator to look at, to replay or to drop."""


@dataclass(frozen=True, slots=True)
class Reread:
    """The record is not what this core thought: answered by `Known`, or by `RecordClosed(MISSING)` if there is none."""

    request_id: RequestId


@dataclass(frozen=True, slots=True)
class PublishLoad:
    """What submissions are judged by: see `shared.line.Load`."""

    waiting: int
    predicted_wait_s: float
    takes_per_s: float = 0.0
    kv_takes_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Forget:
    """This incarnation is gone: drop its membership entry."""

    ref: WorkerRef


@dataclass(frozen=True, slots=True)
class TellStory:
    request_id: RequestId
    what: str
    data: dict[str, object]


SchedulerCommand = Place | Command | BeginMove | RaiseFence | Requeue | WriteEnd | Close | Reread | PublishLoad | Forget | TellStory
