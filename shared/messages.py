"""Every message on every stream: frozen, versioned by the codec, new fields only at the end and with defaults.

| stream           | writer                     | reader              | messages                                        |
|------------------|----------------------------|---------------------|-------------------------------------------------|
| submit (pool)    | gateway                    | scheduler           | Submission                                      |
| events (pool)    | worker, gateway            | scheduler           | Report, GatewayBeat, ListenerChange, CancelAsked |
| jobs (worker)    | scheduler                  | that worker         | Assign, AssistOrder                             |
| control (worker) | scheduler, worker, gateway | that worker         | the members of `Control`                        |
| log (request)    | owner, scheduler           | gateway, next owner | LogTokens, LogEnd                               |
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from shared.profile import PeerLink, Profile
from shared.types import NO_GATEWAY, AssistId, FinishReason, GatewayId, JobSeq, Phase, RequestId, TokenSpan, TransferId, WorkerRef

# --- gateway -> pool ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Submission:
    """What the scheduler must know of a request; the prompt itself stays in the log's head."""

    request_id: RequestId
    num_prompt: int
    max_tokens: int
    created_ms: int
    priority: int = 0
    """Lower is sooner."""
    timeout_s: float = 0.0
    """Seconds from acceptance after which the request fails; 0: none."""
    background: bool = False
    gateway: GatewayId = NO_GATEWAY
    """The listener, if any: a request that is not in the background ends a grace period after losing it."""
    num_choices: int = 1
    prefix: bytes = b""
    """Chained hashes of the prompt's first whole granules under the tenant's salt, 8 bytes each: who may hold them in cache."""
    trace: str = ""
    """As in `RequestSpec.trace`: the prompt's log is not read by the scheduler."""
    ttft_target_s: float = 0.0
    """What its first token should not take longer than; 0: as the pool's. A predicted wait beyond it is a refusal."""
    itl_target_s: float = 0.0
    """The same for the time between two of its tokens, on average."""

    def longest_wait_s(self, most_s: float) -> float:
        """The predicted wait beyond which it is refused: who asks for a first token in time is told at once that it cannot be."""
        return min(most_s, self.ttft_target_s) if self.ttft_target_s else most_s


@dataclass(frozen=True, slots=True)
class GatewayBeat:
    """A gateway is alive: its listeners hold."""

    gateway: GatewayId
    counter: int


@dataclass(frozen=True, slots=True)
class ListenerChange:
    """A client follows a request through this gateway, or no longer does."""

    request_id: RequestId
    gateway: GatewayId
    listening: bool


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """Somebody asked for the end of a request; the record already says so."""

    request_id: RequestId


# --- scheduler -> worker: jobs -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Source:
    """Where the owner can pull a partial prefill state `[0, tokens)` from."""

    assist: AssistId
    worker: WorkerRef
    tokens: int
    host: str = ""
    """Of that worker: the owner keeps a figure of the link to each host."""


@dataclass(frozen=True, slots=True)
class Assign:
    """Makes the receiving worker the request's one owner under `attempt`."""

    seq: JobSeq
    request_id: RequestId
    attempt: int
    num_tokens: int
    """Known tokens: the prompt, and what earlier attempts delivered."""
    source: Source | None = None


@dataclass(frozen=True, slots=True)
class AssistOrder:
    """Give this waiting prompt a head start, at most up to `limit` tokens (whole granules)."""

    seq: JobSeq
    assist: AssistId
    request_id: RequestId
    limit: int


# --- -> worker: control ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StopAssist:
    """Compute no further; keep what is offered until it is released. `taken_by` will pull it."""

    assist: AssistId
    taken_by: WorkerRef | None = None


@dataclass(frozen=True, slots=True)
class ReleaseAssist:
    """Nobody needs this partial prefill state any more."""

    assist: AssistId


@dataclass(frozen=True, slots=True)
class Cancel:
    """End this request as cancelled, or as failed if `error` says why."""

    request_id: RequestId
    error: str = ""
    code: str = ""
    """Of the failure, for programs: `timeout`, `too_many_crashes`."""


@dataclass(frozen=True, slots=True)
class Revoke:
    """Another attempt owns this request: drop every attempt below `attempt` without a word."""

    request_id: RequestId
    attempt: int


@dataclass(frozen=True, slots=True)
class Pull:
    """Send me the KV of these tokens."""

    transfer: TransferId
    assist: AssistId
    request_id: RequestId
    attempt: int
    span: TokenSpan
    requester: WorkerRef
    address: bytes
    """Where the requester's transport receives from this sender's incarnation."""
    fingerprint: bytes
    """Of the wire layout: a sender with another one refuses."""
    expires_ms: int = 0
    """Wall clock after which the ticket is void."""
    ticket: bytes = b""
    """Proves that the requester belongs to the pool and asked for exactly this: see `workers.tickets`."""


@dataclass(frozen=True, slots=True)
class PullRefused:
    """The sender cannot send that: the receiver recomputes."""

    transfer: TransferId
    sender: WorkerRef
    reason: str


@dataclass(frozen=True, slots=True)
class AbandonTransfer:
    """The receiver gave up on this transfer; the sender may stop."""

    transfer: TransferId
    requester: WorkerRef


@dataclass(frozen=True, slots=True)
class Drain:
    """Take nothing new; hand back what is not finished within `deadline_s`."""

    deadline_s: float


# --- worker -> scheduler -----------------------------------------------------------------------------------------


class WorkerState(StrEnum):
    """What a worker is willing to do."""

    READY = "ready"
    DRAINING = "draining"
    LEFT = "left"
    """The last report of an incarnation: it holds nothing and says goodbye."""


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """Membership: what a worker is and can do. Written once per incarnation, kept alive by its reports."""

    ref: WorkerRef
    model: str
    fingerprint: bytes
    """Of the KV wire layout: only equal ones can hand over."""
    device: str
    host: str
    profile: Profile
    block_tokens: int
    total_blocks: int
    max_sequences: int
    token_budget: int
    max_model_tokens: int
    prefix_cache: bool = True
    """Whether it keeps the KV of what it computed for prompts that begin alike."""
    role: str = ""
    """`low` or `high` where its operator said so; empty: its profile says."""
    usd_per_hour: float = 0.0
    """What it costs to have it; 0: unknown."""


@dataclass(frozen=True, slots=True)
class OwnedState:
    """A request this worker owns, in a full report."""

    request_id: RequestId
    attempt: int
    num_tokens: int
    num_computed: int


@dataclass(frozen=True, slots=True)
class AssistState:
    """A head start this worker holds. `offered` is what may be pulled (whole granules)."""

    assist: AssistId
    request_id: RequestId
    offered: int
    stopped: bool


@dataclass(frozen=True, slots=True)
class Returned:
    """A request its owner gives back unfinished; it will write no more to the log."""

    request_id: RequestId
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class Credit:
    """What the worker could take on now."""

    tokens: int
    """Token budget that its coming step would leave unused."""
    blocks: int
    """Free KV blocks, less what its own running requests are expected to grow."""
    sequences: int
    """Free places for sequences, owned or assisted."""


@dataclass(frozen=True, slots=True)
class Report:
    """A worker's heartbeat and news. `counter` grows with every report of an incarnation.

    `owned` and `assists` are complete lists, so a lost report heals with the next one.
    """

    ref: WorkerRef
    counter: int
    state: WorkerState
    seen: JobSeq
    """The last job this worker has accounted for in the figures below."""
    credit: Credit
    owned: tuple[OwnedState, ...] = ()
    assists: tuple[AssistState, ...] = ()
    closed: tuple[RequestId, ...] = ()
    """Requests whose record this worker closed since its last report."""
    returned: tuple[Returned, ...] = ()
    """Requests given back; repeated until the request is seen elsewhere or revoked."""
    profile: Profile | None = None
    """Corrected by live step times, when it changed."""
    links: tuple[PeerLink, ...] | None = None
    """All links to other hosts that it has measured, when one changed and from time to time."""


# --- the log -----------------------------------------------------------------------------------------------------


class LogTokens(NamedTuple):
    """Tokens `[index, index + len(token_ids))` of one choice, and the text that became safe to show with them.

    Made for every token in every process: a named tuple costs a quarter of a frozen dataclass.
    """

    choice: int
    index: int  # type: ignore[assignment]  # as everywhere; nobody looks for a field in it
    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[float, ...] = ()
    finish: FinishReason | None = None
    at_ms: int = 0
    """The owner's wall clock, for `explain`."""
    top_logprobs: tuple[tuple[tuple[int, float], ...], ...] = ()
    """Per token: the likeliest `(id, logprob)`, best first; empty if not asked for."""
    cached_tokens: int = 0
    """Prompt tokens that this attempt found in its worker's cache; in a choice's first entry of an attempt."""


@dataclass(frozen=True, slots=True)
class LogEnd:
    """The end of a request. The first one in a log wins."""

    phase: Phase
    """`FINISHED`, `CANCELLED` or `FAILED`."""
    error: str = ""
    code: str = ""
    at_ms: int = 0
    counts: tuple[int, ...] = ()
    """Tokens of each choice, as who finished them knows it: a log that has others is told so. Empty: nobody says."""


# --- agents ------------------------------------------------------------------------------------------------------


class ManagedState(StrEnum):
    """Where a worker process stands, as the agent that keeps it sees it."""

    RUNNING = "running"
    """The process lives; whether its worker has joined, the pool's members say."""
    BACKING_OFF = "backing_off"
    """It crashed and will be started again."""
    DRAINING = "draining"
    """Told to leave: it finishes or hands back what it holds."""
    LEFT = "left"
    """It left in good order without having been told by the agent."""
    GIVEN_UP = "given_up"
    """It crashed again and again; `complaint` says with what."""


@dataclass(frozen=True, slots=True)
class ManagedWorker:
    """One worker process of an agent."""

    name: str
    """The worker's id in the pool."""
    kind: str
    """`low`, `high`, or whatever its launcher calls it: the measured profile decides what it does."""
    state: ManagedState
    pid: int = 0
    restarts: int = 0
    options: tuple[str, ...] = ()
    """Of `headstart worker`."""
    complaint: str = ""
    """The last words of its last crash."""


@dataclass(frozen=True, slots=True)
class AgentInfo:
    """A host's agent: how it is reached, and what it keeps running. Leased; renewed while it lives."""

    host: str
    incarnation: str
    queue: str
    """Celery's queue of this host."""
    pid: int
    accelerators: tuple[str, ...] = ()
    cpus: int = 1
    workers: tuple[ManagedWorker, ...] = ()


# --- explain -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoryLine:
    """One line of a request's timeline, for `explain`: never prompt text."""

    at_ms: int
    who: str
    what: str
    data: dict[str, object]


Job = Assign | AssistOrder
Control = StopAssist | ReleaseAssist | Cancel | Revoke | Pull | PullRefused | AbandonTransfer | Drain
PoolEvent = Report | GatewayBeat | ListenerChange | CancelAsked
LogEntry = LogTokens | LogEnd
Message = Submission | PoolEvent | Job | Control | LogEntry | WorkerInfo | StoryLine | AgentInfo
