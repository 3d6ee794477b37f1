"""What can happen to a worker core, and what it can ask its shell to do.

Every command that starts something ends in exactly one event: `StartPull` in `PullEnded`, `SendKv` in `SendEnded`,
`Launch` in `StepDone` or `StepFailed`, `EndRequest` and the last choice's last `Emit` in `Closed` or `Superseded`.
Messages of `shared.messages.Control` are events as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from shared.messages import Assign, AssistOrder, Control, Report
from shared.types import AssistId, BlockId, FinishReason, Phase, RequestId, RequestSpec, TokenSpan, TransferId, WorkerRef
from workers.engine import StepPlan, TopLogprobs

# --- events ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Delivered:
    """What the log already has of one choice."""

    token_ids: tuple[int, ...] = ()
    finish: FinishReason | None = None
    """Set: the choice has ended, and stays ended."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """An assignment, with what the shell read from the log's head and its entries."""

    job: Assign
    spec: RequestSpec
    delivered: tuple[Delivered, ...] = ()
    """By choice; of a choice beyond the last there is nothing yet."""


@dataclass(frozen=True, slots=True)
class Ordered:
    """An assist order, with the prompt."""

    job: AssistOrder
    spec: RequestSpec


@dataclass(frozen=True, slots=True)
class Unloadable:
    """The log of a job's request is missing or has ended: nothing to do but say so."""

    job: Assign | AssistOrder
    ended: Phase | None


@dataclass(frozen=True, slots=True)
class StepDone:
    step: int
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    seconds: float
    top_logprobs: tuple[TopLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class StepFailed:
    step: int
    error: str


@dataclass(frozen=True, slots=True)
class PullEnded:
    """The shell is done with this transfer and touches its blocks no more.

    `good_tokens` counts the tokens from the span's start that were verified and copied into the blocks.
    """

    transfer: TransferId
    good_tokens: int
    bytes_moved: int
    seconds: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class SendEnded:
    """The transport has let go of what it was sending."""

    transfer: TransferId
    requester: WorkerRef
    error: str = ""


@dataclass(frozen=True, slots=True)
class StopFound:
    """The output stage met a stop string in the text of token `index`: later tokens of the choice do not exist."""

    request_id: RequestId
    attempt: int
    choice: int
    index: int


@dataclass(frozen=True, slots=True)
class Superseded:
    """The log's fence is above this attempt (or the log is gone): write nothing more, free everything."""

    request_id: RequestId
    attempt: int


@dataclass(frozen=True, slots=True)
class Closed:
    """The terminal entry is in the log and the record is closed."""

    request_id: RequestId
    attempt: int


@dataclass(frozen=True, slots=True)
class PeerLost:
    """An incarnation is dead: its transfers cannot complete."""

    peer: WorkerRef


@dataclass(frozen=True, slots=True)
class LinkProbed:
    """What trial transfers from a worker of this host took: a fixed part, and a rate."""

    host: str
    link_s: float
    link_bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: deadlines, report."""


WorkerEvent = (
    Assigned
    | Ordered
    | Unloadable
    | Control
    | StepDone
    | StepFailed
    | PullEnded
    | SendEnded
    | StopFound
    | Superseded
    | Closed
    | PeerLost
    | LinkProbed
    | Tick
)

# --- commands ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Launch:
    plan: StepPlan


@dataclass(frozen=True, slots=True)
class OpenOutput:
    """This attempt will write the log behind what is `delivered`; the output stage replays those ids first."""

    spec: RequestSpec
    attempt: int
    delivered: tuple[Delivered, ...]


class Emit(NamedTuple):
    """Tokens `[index, index + len)` of a choice for the log. `finish` ends the choice; the last choice's ends the request as finished."""

    request_id: RequestId
    attempt: int
    choice: int
    index: int  # type: ignore[assignment]  # as everywhere; nobody looks for a field in it
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: FinishReason | None = None
    top_logprobs: tuple[TopLogprobs, ...] = ()
    cached_tokens: int = 0
    """Prompt tokens that the attempt found in the cache, with its first token."""


@dataclass(frozen=True, slots=True)
class EndRequest:
    """The terminal entry without a token: cancelled or failed."""

    request_id: RequestId
    attempt: int
    phase: Phase
    error: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True)
class DropOutput:
    """Forget this attempt's output state; nothing more is written for it."""

    request_id: RequestId
    attempt: int


@dataclass(frozen=True, slots=True)
class StartPull:
    """Receive `span` from `source` into staging, verify, copy the good granules into `blocks`.

    The shell sends `Pull` once its receives are posted. The blocks stay in flight until `PullEnded`. Without blocks it is a trial
    of the link.
    """

    transfer: TransferId
    request_id: RequestId
    attempt: int
    assist: AssistId
    source: WorkerRef
    span: TokenSpan
    blocks: tuple[BlockId, ...]
    deadline_s: float


@dataclass(frozen=True, slots=True)
class AbandonPull:
    """Give up on a transfer; `PullEnded` still follows, once nothing touches the blocks any more."""

    transfer: TransferId
    source: WorkerRef


@dataclass(frozen=True, slots=True)
class SendKv:
    """Gather `span` from `blocks` and send it. The blocks stay in flight until `SendEnded`."""

    transfer: TransferId
    request_id: RequestId
    attempt: int
    requester: WorkerRef
    address: bytes
    span: TokenSpan
    blocks: tuple[BlockId, ...]


@dataclass(frozen=True, slots=True)
class DropPeer:
    """Destroy the transport's side of this dead incarnation."""

    peer: WorkerRef


@dataclass(frozen=True, slots=True)
class TellWorker:
    worker: WorkerRef
    message: Control


@dataclass(frozen=True, slots=True)
class SendReport:
    report: Report


@dataclass(frozen=True, slots=True)
class TellStory:
    """A line for `explain`; `data` never holds prompt text."""

    request_id: RequestId
    what: str
    data: dict[str, object]


WorkerCommand = (
    Launch | OpenOutput | Emit | EndRequest | DropOutput | StartPull | AbandonPull | SendKv | DropPeer | TellWorker | SendReport | TellStory
)
