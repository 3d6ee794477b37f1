"""What the fabric in memory holds: everything that a server would write to its disk. A copy shares the messages, which never change."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from shared.fabric import LogHead, Record
from shared.line import Load
from shared.messages import Control, Job, LogEnd, LogEntry, LogTokens, PoolEvent, StoryLine, Submission, WorkerInfo
from shared.types import JobSeq, Phase, RequestId, WorkerRef

M = TypeVar("M")
EntryId = tuple[int, int]


def _parse(entry_id: str) -> EntryId:
    ms, _, number = entry_id.partition("-")
    return int(ms), int(number or 0)


@dataclass
class Stream(Generic[M]):
    """Entries in order under `<wall ms>-<number>`, as a server names them: ids grow even after a lost tail."""

    ids: list[EntryId] = field(default_factory=list)
    items: list[M] = field(default_factory=list)
    last: EntryId = (0, 0)
    """Of the newest entry there ever was: ids grow although entries go and clocks step back."""

    def add(self, item: M, wall_ms: int) -> EntryId:
        self.last = (wall_ms, 0) if wall_ms > self.last[0] else (self.last[0], self.last[1] + 1)
        self.ids.append(self.last)
        self.items.append(item)
        return self.last

    def copy(self) -> Stream[M]:
        return Stream(self.ids.copy(), self.items.copy(), self.last)

    def read(self, after: str, count: int) -> tuple[tuple[str, M], ...]:
        first = bisect_right(self.ids, _parse(after))
        pairs = zip(self.ids[first : first + count], self.items[first : first + count], strict=True)
        return tuple((f"{ms}-{number}", item) for (ms, number), item in pairs)

    def remove(self, entry_id: EntryId) -> None:
        at = bisect_right(self.ids, entry_id) - 1
        if at >= 0 and self.ids[at] == entry_id:
            del self.ids[at], self.items[at]

    def clear(self) -> None:
        self.ids.clear()
        self.items.clear()


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
        )
