"""What the fabric in memory holds: everything that a server would write to its disk. A copy shares the messages, which never change."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from shared.fabric import LogHead, Record
from shared.line import Load
from shared.messages import Control, Job, LogEnd, LogEntry, LogTokens, PoolEvent, StoryLine, Submission, WorkerInfo
from shared.model_stream import EntryId, Stream
from shared.types import JobSeq, Phase, RequestId, WorkerRef

Append = tuple[int, tuple[LogTokens, ...], LogEnd | None]


@dataclass
class Log:
    head: LogHead
    fence: int
    entries: Stream[LogEntry] = field(default_factory=Stream)
    next_index: dict[int, int] = field(default_factory=dict)
    ended: Phase | None = None
    last: Append | None = None

    def copy(self) -> Log:
        return replace(self, entries=self.entries.copy(), next_index=self.next_index.copy())


@dataclass
class Held:
    """A record, and what the pool keeps with it."""

    record: Record
    entry_id: EntryId
    seq: JobSeq | None = None


@dataclass
class Member:
    info: WorkerInfo
    ttl_s: float
    until_ms: float


@dataclass
class Lease:
    epoch: int = 0
    candidate: str = ""
    until_ms: float = 0.0


@dataclass
class State:
    """Everything the server would write to its disk."""

    logs: dict[RequestId, Log] = field(default_factory=dict)
    held: dict[RequestId, Held] = field(default_factory=dict)
    keys: dict[str, tuple[str, RequestId]] = field(default_factory=dict)
    submissions: Stream[Submission] = field(default_factory=Stream)
    events: Stream[PoolEvent] = field(default_factory=Stream)
    jobs: dict[WorkerRef, Stream[Job]] = field(default_factory=dict)
    control: dict[WorkerRef, Stream[Control]] = field(default_factory=dict)
    members: dict[WorkerRef, Member] = field(default_factory=dict)
    stories: dict[RequestId, list[StoryLine]] = field(default_factory=dict)
    lease: Lease = field(default_factory=Lease)
    load: Load = field(default_factory=Load)
    promised: dict[str, float] = field(default_factory=dict)
    reserved_bytes: int = 0
    dead: list[Submission] = field(default_factory=list)

    def copy(self) -> State:
        """Messages never change: they are shared, what holds them is not."""
        return State(
            {name: log.copy() for name, log in self.logs.items()},
            {name: replace(held) for name, held in self.held.items()},
            self.keys.copy(),
            self.submissions.copy(),
            self.events.copy(),
            {ref: jobs.copy() for ref, jobs in self.jobs.items()},
            {ref: control.copy() for ref, control in self.control.items()},
            {ref: replace(member) for ref, member in self.members.items()},
            {name: story.copy() for name, story in self.stories.items()},
            replace(self.lease),
            self.load,
            self.promised.copy(),
            self.reserved_bytes,
            self.dead.copy(),
        )
