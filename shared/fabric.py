"""What the fabric promises, whoever keeps it: the typed scripts of the Redis server, or the in-memory model.

Every method is one atomic step on one hash tag and can be repeated: a caller that lost the answer asks again.
`FabricModel` (in memory, synchronous core) and `RedisFabric` pass the same contract tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from shared.messages import Control, Job, LogEnd, LogEntry, LogTokens, PoolEvent, StoryLine, Submission, WorkerInfo
from shared.types import GatewayId, Phase, RequestId, RequestSpec, WorkerRef


class SubmitStatus(StrEnum):
    ACCEPTED = "accepted"
    REPEATED = "repeated"
    """The idempotency key is known with the same body: `request_id` is the earlier request's."""
    CONFLICT = "conflict"
    """The idempotency key is known with another body."""
    BUSY = "busy"
    """Too many waiting or too long a predicted wait: `retry_after_s` says when."""
    NO_MEMORY = "no_memory"
    """The message server could not keep what the request may come to need."""
    OTHER_VERSION = "other_version"
    """The leader is of a release that would not understand it."""


class Bound(StrEnum):
    """What a submission was refused for; the label of the gateway's metric."""

    WAITING = "waiting"
    """As many requests wait as may."""
    TIME = "predicted_wait"
    """The last of those that wait would start too late."""
    KV = "kv_memory"
    """Those that wait need more KV memory than the owners' turns over in that time."""
    SERVER = "server_memory"
    """What live requests may come to need in the message server."""


@dataclass(frozen=True, slots=True)
class SubmitAnswer:
    status: SubmitStatus
    request_id: RequestId
    retry_after_s: float = 0.0
    bound: Bound | None = None
    """Of a refusal."""


class WriteStatus(StrEnum):
    """What became of a fenced write."""

    DONE = "done"
    """In effect, now or already before (an exact repeat)."""
    SUPERSEDED = "superseded"
    """A newer attempt, incarnation or leader exists: nothing was touched."""
    ENDED = "ended"
    """The request has already ended."""
    CANCELLED = "cancelled"
    """A cancellation was asked for: place nothing, end it."""
    GAP = "gap"
    """Not the next index, and not an exact repeat."""
    MISSING = "missing"
    """No such request (never accepted, expired, or lost by the server)."""


@dataclass(frozen=True, slots=True)
class FenceAnswer:
    """The log after its fence was raised: nobody below `fence` can write any more."""

    status: WriteStatus
    next_index: int = 0
    """Tokens in the log of the choice that has most of them."""
    ended: Phase | None = None
    code: str = ""
    """Of that end: a leader that did not write it itself learns from it what is to be done at the close."""


@dataclass(frozen=True, slots=True)
class Record:
    """A request as the pool knows it."""

    request_id: RequestId
    phase: Phase
    attempt: int
    owner: WorkerRef | None
    cancel_asked: bool
    crashes: int
    submission: Submission
    listener: GatewayId
    num_tokens: int
    """Prompt and delivered tokens, as of the last placement."""


@dataclass(frozen=True, slots=True)
class LogHead:
    """The head of a request's log: written before acceptance, read by owners and gateways."""

    spec: RequestSpec
    api: str
    """JSON of the gateway that accepted the request: what it needs to build answers. Workers do not read it."""
    owner_key: str
    """Whose request it is: the digest of an API key, empty when none are needed."""
    fence: int = 1


class LoggedEntry(NamedTuple):
    """`entry_id` orders the entries of one log and is where a reader goes on."""

    entry_id: str
    entry: LogEntry


@dataclass(frozen=True, slots=True)
class LoadedLog:
    """All that a log says."""

    head: LogHead
    entries: tuple[LogEntry, ...]


class Grown(NamedTuple):
    """A hint that a log grew: `entries` stand right behind its entry `after`. Without any, whoever wants to know reads the log."""

    request_id: RequestId
    after: str = ""
    entries: tuple[LoggedEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """What the pool's keys say of its state, for probes and people."""

    leader: str
    """The candidate that holds the lease; empty: nobody leads."""
    live: int
    """Accepted requests that have not ended."""
    waiting: int
    """Those of them that nobody owns."""
    predicted_wait_s: float
    dead_letters: int = 0
    """Requests that too many crashes ended, until somebody replays or drops them."""


class Fabric(Protocol):
    # -- submission (gateway)
    async def create_log(self, head: LogHead) -> None: ...

    async def submit(
        self, submission: Submission, *, idempotency_key: str = "", body_digest: str = "", retry_key: str = ""
    ) -> SubmitAnswer:
        """`retry_key` names who is promised a place if he is refused, and finds it kept (`shared.line`); empty: nobody is."""
        ...

    async def cancel(self, request_id: RequestId) -> Phase | None:
        """Marks the record, tells the scheduler and the owner. None: no such request."""
        ...

    async def set_listener(self, request_id: RequestId, gateway: GatewayId, listening: bool) -> None: ...

    async def tell_scheduler(self, event: PoolEvent) -> None: ...

    # -- the log (owner, gateway, scheduler)
    async def head(self, request_id: RequestId) -> LogHead | None: ...

    async def append(self, request_id: RequestId, attempt: int, tokens: tuple[LogTokens, ...], end: LogEnd | None = None) -> WriteStatus:
        """All of it or nothing. An exact repeat of the last append is `DONE`."""
        ...

    async def read_log(self, request_id: RequestId, after: str = "0-0", count: int = 0) -> tuple[LoggedEntry, ...]:
        """The entries behind `after`; at most `count`, if it is not 0."""
        ...

    async def load_logs(self, request_ids: tuple[RequestId, ...]) -> tuple[LoadedLog | None, ...]:
        """Heads and entries of many logs at once, for an owner; None for one that is missing or cannot be read."""
        ...

    async def raise_fence(self, request_id: RequestId, attempt: int) -> FenceAnswer: ...

    # -- placement (scheduler; every write names the leader's epoch)
    async def lead(self, candidate: str, ttl_s: float) -> int:
        """Takes or renews the lease; the leader's epoch, or 0 if another holds it."""
        ...

    async def resign(self, candidate: str) -> None: ...

    async def place(self, epoch: int, worker: WorkerRef, job: Job) -> WriteStatus:
        """`Assign`: QUEUED -> RUNNING and the job in the worker's stream, in one step. `AssistOrder`: the job alone."""
        ...

    async def command(self, epoch: int, worker: WorkerRef, message: Control) -> WriteStatus: ...

    async def begin_move(self, epoch: int, request_id: RequestId, attempt: int) -> WriteStatus:
        """QUEUED or RUNNING under `attempt` -> MOVING."""
        ...

    async def requeue(self, epoch: int, request_id: RequestId, attempt: int, num_tokens: int, *, crashed: bool) -> WriteStatus:
        """MOVING -> QUEUED under the new `attempt`."""
        ...

    async def close(self, request_id: RequestId, attempt: int, phase: Phase, *, dead_letter: bool = False) -> WriteStatus:
        """The record ends, its submission is acknowledged, its memory released. Refused below the record's attempt.

        As a dead letter it is also kept, log and all, for an operator to replay or drop.
        """
        ...

    async def sweep(self, request_ids: Sequence[RequestId]) -> int:
        """Deletes what is left of ended requests whose retention is over, but for what somebody asked to keep; the number of keys."""
        ...

    async def record(self, request_id: RequestId) -> Record | None: ...

    async def records(self, request_ids: tuple[RequestId, ...]) -> tuple[Record | None, ...]:
        """In order, in one round trip."""
        ...

    async def server_life(self) -> str:
        """Another after a restart, or where another server has taken its place: what was believed may not be so. Empty: cannot be told."""
        ...

    # -- streams
    async def read_submissions(self, after: str, *, count: int = 100, block_ms: int = 0) -> tuple[tuple[str, Submission], ...]:
        """Live requests in order of acceptance: a closed one is no longer in the stream."""
        ...

    async def read_events(self, after: str, *, count: int = 500, block_ms: int = 0) -> tuple[tuple[str, PoolEvent], ...]: ...

    async def newest_event(self) -> str:
        """Id of the last event; `0-0` if there is none."""
        ...

    async def read_jobs(self, worker: WorkerRef, after: str, *, count: int = 16, block_ms: int = 0) -> tuple[tuple[str, Job], ...]: ...

    async def read_control(
        self, worker: WorkerRef, after: str, *, count: int = 100, block_ms: int = 0
    ) -> tuple[tuple[str, Control], ...]: ...

    async def newest(self, worker: WorkerRef) -> tuple[str, str]:
        """Ids of a worker's last job and last control message. A server that lost its last writes may give ids that were read before."""
        ...

    async def tell_worker(self, worker: WorkerRef, message: Control) -> None:
        """Between workers (pull, release): no epoch, addressed to one incarnation."""
        ...

    # -- membership and explanations
    async def join(self, info: WorkerInfo, ttl_s: float) -> None: ...

    async def leave(self, worker: WorkerRef) -> None: ...

    async def members(self) -> tuple[WorkerInfo, ...]: ...

    async def publish_load(
        self,
        epoch: int,
        waiting: int,
        max_waiting: int,
        predicted_wait_s: float,
        takes_per_s: float = 0.0,
        kv_takes_per_s: float = 0.0,
    ) -> WriteStatus:
        """What submissions are judged by: `shared.line.Load`."""
        ...

    async def tell_story(self, request_id: RequestId, lines: tuple[StoryLine, ...]) -> None: ...

    async def story(self, request_id: RequestId) -> tuple[StoryLine, ...]: ...
