"""The fabric in memory: the same promises as the Redis server's scripts, synchronous, on a clock that is passed in.

It is what the simulator runs on and what the contract suite holds against the real one. Every method is atomic because
nothing runs beside it. Leases count on the clock's wall time, as a server's expiries do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from shared.clock import Clock
from shared.fabric import Bound, FenceAnswer, LoadedLog, LoggedEntry, LogHead, Record, SubmitAnswer, SubmitStatus, WriteStatus
from shared.fabric_state import Append, Held, Log, Member, State
from shared.line import Line, Load
from shared.messages import (
    Assign,
    Cancel,
    CancelAsked,
    Control,
    Job,
    ListenerChange,
    LogEnd,
    LogTokens,
    PoolEvent,
    Report,
    StoryLine,
    Submission,
    WorkerInfo,
)
from shared.model_stream import Stream
from shared.request import TERMINAL, advance
from shared.types import NO_GATEWAY, GatewayId, Phase, RequestId, WorkerRef

REMEMBERED_JOBS = 64
"""A head start that is ordered again is known by its number among so many last jobs of its worker."""


MAX_WAITING = 10_000
"""Where the leader publishes no bound of its own."""


def reserved_bytes(submission: Submission) -> int:
    """What a submission reserves for its log until it is closed: a bound, not a measurement."""
    return 4096 + 16 * (submission.num_prompt + submission.max_tokens * submission.num_choices)


Watcher = Callable[[str, str], None]
"""`(stream, key)`: an entry was added to `submit`, `events`, `jobs`, `control` or `log`; `key` says whose."""


class FabricModel:
    """See `shared.fabric.Fabric` for what each method promises; `watch` is told of every entry added to a stream."""

    def __init__(
        self, clock: Clock, *, memory_bytes: int | None = None, max_predicted_wait_s: float = 600.0, watch: Watcher | None = None
    ) -> None:
        self._clock = clock
        self._memory_bytes = memory_bytes
        self._max_predicted_wait_s = max_predicted_wait_s
        self._watch = watch or (lambda stream, key: None)
        self._state = State()
        self._snapshots: list[tuple[float, State]] = []
        self._losses = 0

    # -- a server that restarts

    def snapshot(self) -> None:
        """Remembers the present state, as a server that writes its disk now and then."""
        self._snapshots.append((self._clock.monotonic(), self._state.copy()))

    def restore(self, window_s: float) -> None:
        """Restarts from the newest snapshot that is at least `window_s` old; a window of 0 loses nothing."""
        if window_s <= 0:
            return
        old_enough = [state for taken, state in self._snapshots if taken <= self._clock.monotonic() - window_s]
        self._state = old_enough[-1].copy() if old_enough else State()

    def return_to_snapshot(self) -> None:
        """Loses all that was written since the newest snapshot; without one, everything."""
        self._state = self._snapshots[-1][1].copy() if self._snapshots else State()
        self._losses += 1

    def server_life(self) -> str:
        return f"life {self._losses}"

    # -- submission

    def create_log(self, head: LogHead) -> None:
        self._state.logs.setdefault(head.spec.request_id, Log(head, head.fence))

    def submit(self, submission: Submission, *, idempotency_key: str = "", body_digest: str = "", retry_key: str = "") -> SubmitAnswer:
        refusal = self._known(submission, idempotency_key, body_digest) or self._no_room(submission, retry_key)
        if refusal:
            return refusal
        request_id = submission.request_id
        if idempotency_key:
            self._state.keys[idempotency_key] = (body_digest, request_id)
        record = Record(request_id, Phase.QUEUED, 1, None, False, 0, submission, submission.gateway, submission.num_prompt)
        entry_id = self._state.submissions.add(submission, self._clock.wall_ms())
        self._state.held[request_id] = Held(record, entry_id)
        self._state.reserved_bytes += reserved_bytes(submission)
        self._watch("submit", "")
        return SubmitAnswer(SubmitStatus.ACCEPTED, request_id)

    def _known(self, submission: Submission, key: str, digest: str) -> SubmitAnswer | None:
        if key and key in self._state.keys:
            known_digest, request_id = self._state.keys[key]
            status = SubmitStatus.REPEATED if known_digest == digest else SubmitStatus.CONFLICT
            return SubmitAnswer(status, request_id)
        if submission.request_id in self._state.held:
            return SubmitAnswer(SubmitStatus.ACCEPTED, submission.request_id)
        return None

    def _no_room(self, submission: Submission, retry_key: str) -> SubmitAnswer | None:
        waiting = sum(held.record.phase is Phase.QUEUED for held in self._state.held.values())
        line = Line(MAX_WAITING, submission.longest_wait_s(self._max_predicted_wait_s), self._state.promised)
        verdict = line.ask(waiting, self._state.load, retry_key, self._clock.wall_ms() / 1000)
        self._state.promised = line.promised
        if verdict.bound is not None:
            return SubmitAnswer(SubmitStatus.BUSY, submission.request_id, verdict.retry_after_s, verdict.bound)
        if self._memory_bytes is not None and self._state.reserved_bytes + reserved_bytes(submission) > self._memory_bytes:
            return SubmitAnswer(SubmitStatus.NO_MEMORY, submission.request_id, 1.0, Bound.SERVER)
        return None

    def cancel(self, request_id: RequestId) -> Phase | None:
        held = self._state.held.get(request_id)
        if held is None:
            return None
        if held.record.phase not in TERMINAL:
            held.record = replace(held.record, cancel_asked=True)
            self.tell_scheduler(CancelAsked(request_id))
            if held.record.phase is Phase.RUNNING and held.record.owner is not None:
                self.tell_worker(held.record.owner, Cancel(request_id))
        return held.record.phase

    def set_listener(self, request_id: RequestId, gateway: GatewayId, listening: bool) -> None:
        held = self._state.held.get(request_id)
        if held is None or held.record.phase in TERMINAL:
            return
        if listening:
            held.record = replace(held.record, listener=gateway)
        elif held.record.listener == gateway:
            held.record = replace(held.record, listener=NO_GATEWAY)
        self.tell_scheduler(ListenerChange(request_id, gateway, listening))

    def tell_scheduler(self, event: PoolEvent) -> None:
        if isinstance(event, Report) and (member := self._state.members.get(event.ref)):
            member.until_ms = self._clock.wall_ms() + 1000 * member.ttl_s
        self._state.events.add(event, self._clock.wall_ms())
        self._watch("events", "")

    # -- the log

    def head(self, request_id: RequestId) -> LogHead | None:
        log = self._state.logs.get(request_id)
        return replace(log.head, fence=log.fence) if log else None

    def append(self, request_id: RequestId, attempt: int, tokens: tuple[LogTokens, ...], end: LogEnd | None = None) -> WriteStatus:
        log = self._state.logs.get(request_id)
        if log is None:
            return WriteStatus.MISSING
        if (refusal := self._refuse_append(log, attempt, tokens, end)) is not None:
            return refusal
        for entry in (*tokens, *((end,) if end else ())):
            log.entries.add(entry, self._clock.wall_ms())
        for entry in tokens:
            log.next_index[entry.choice] = entry.index + len(entry.token_ids)
        log.ended, log.last = end.phase if end else None, (attempt, tokens, end)
        self._watch("log", request_id)
        return WriteStatus.DONE

    def _refuse_append(self, log: Log, attempt: int, tokens: tuple[LogTokens, ...], end: LogEnd | None) -> WriteStatus | None:
        """None if it may be written. A repeat is known by what it says, whenever its writer said it (`at_ms` apart)."""
        if attempt != log.fence:
            return WriteStatus.SUPERSEDED
        if log.last is not None and _same(log.last, (attempt, tokens, end)):
            return WriteStatus.DONE
        if log.ended is not None:
            return WriteStatus.ENDED
        coming = dict(log.next_index)
        for entry in tokens:
            if entry.index != coming.get(entry.choice, 0):
                return WriteStatus.GAP
            coming[entry.choice] = entry.index + len(entry.token_ids)
        if end is not None and any(coming.get(choice, 0) != tokens for choice, tokens in enumerate(end.counts)):
            return WriteStatus.GAP
        return None

    def read_log(self, request_id: RequestId, after: str = "0-0", count: int = 0) -> tuple[LoggedEntry, ...]:
        log = self._state.logs.get(request_id)
        entries = log.entries.read(after, count or len(log.entries.ids)) if log else ()
        return tuple(LoggedEntry(entry_id, entry) for entry_id, entry in entries)

    def load_logs(self, request_ids: tuple[RequestId, ...]) -> tuple[LoadedLog | None, ...]:
        found = ((self.head(request_id), self.read_log(request_id)) for request_id in request_ids)
        return tuple(LoadedLog(head, tuple(one.entry for one in logged)) if head else None for head, logged in found)

    def raise_fence(self, request_id: RequestId, attempt: int) -> FenceAnswer:
        log = self._state.logs.get(request_id)
        if log is None:
            return FenceAnswer(WriteStatus.MISSING)
        status = WriteStatus.SUPERSEDED if log.fence > attempt else WriteStatus.DONE
        log.fence = max(log.fence, attempt)
        code = end.code if log.ended and isinstance(end := log.entries.items[-1], LogEnd) else ""
        return FenceAnswer(status, max(log.next_index.values(), default=0), log.ended, code)

    # -- placement

    def lead(self, candidate: str, ttl_s: float) -> int:
        lease, now_ms = self._state.lease, self._clock.wall_ms()
        if now_ms < lease.until_ms and lease.candidate != candidate:
            lease.until_ms = min(lease.until_ms, now_ms + 1000 * ttl_s)  # as in lead.lua: a clock stepped back makes no lease longer
            return 0
        if now_ms >= lease.until_ms:
            # Higher even after a server lost its last writes: its clock is a floor for the number.
            lease.epoch = max(lease.epoch + 1, now_ms)
        lease.candidate, lease.until_ms = candidate, now_ms + 1000 * ttl_s
        return lease.epoch

    def resign(self, candidate: str) -> None:
        if self._state.lease.candidate == candidate:
            self._state.lease.until_ms = 0.0

    def place(self, epoch: int, worker: WorkerRef, job: Job) -> WriteStatus:
        if epoch < self._state.lease.epoch:
            return WriteStatus.SUPERSEDED
        if isinstance(job, Assign):
            return self._assign(worker, job)
        known = self._state.jobs.get(worker)
        if known is None or all(earlier.seq != job.seq for earlier in known.items[-REMEMBERED_JOBS:]):
            self._add_job(worker, job)
        return WriteStatus.DONE

    def _assign(self, worker: WorkerRef, job: Assign) -> WriteStatus:
        held = self._state.held.get(job.request_id)
        if held is None:
            return WriteStatus.MISSING
        record = held.record
        if held.seq == job.seq and record.owner == worker and record.attempt == job.attempt:
            return WriteStatus.DONE
        refusal = _refuse_record(record, job.attempt)
        if refusal is not None:
            return refusal
        if record.cancel_asked:
            return WriteStatus.CANCELLED
        if record.phase is not Phase.QUEUED:
            return WriteStatus.SUPERSEDED
        phase = advance(record.phase, Phase.RUNNING, record)
        held.record, held.seq = replace(record, phase=phase, owner=worker, num_tokens=job.num_tokens), job.seq
        self._add_job(worker, job)
        return WriteStatus.DONE

    def _add_job(self, worker: WorkerRef, job: Job) -> None:
        self._state.jobs.setdefault(worker, Stream()).add(job, self._clock.wall_ms())
        self._watch("jobs", str(worker))

    def command(self, epoch: int, worker: WorkerRef, message: Control) -> WriteStatus:
        if epoch < self._state.lease.epoch:
            return WriteStatus.SUPERSEDED
        self.tell_worker(worker, message)
        return WriteStatus.DONE

    def begin_move(self, epoch: int, request_id: RequestId, attempt: int) -> WriteStatus:
        held = self._state.held.get(request_id)
        if epoch < self._state.lease.epoch:
            return WriteStatus.SUPERSEDED
        if held is None:
            return WriteStatus.MISSING
        refusal = _refuse_record(held.record, attempt)
        if refusal is None and held.record.phase is not Phase.MOVING:
            held.record = replace(held.record, phase=advance(held.record.phase, Phase.MOVING, held.record), owner=None)
        return refusal or WriteStatus.DONE

    def requeue(self, epoch: int, request_id: RequestId, attempt: int, num_tokens: int, *, crashed: bool) -> WriteStatus:
        held = self._state.held.get(request_id)
        if epoch < self._state.lease.epoch:
            return WriteStatus.SUPERSEDED
        if held is None:
            return WriteStatus.MISSING
        record = held.record
        if record.phase not in TERMINAL and record.attempt == attempt:
            return WriteStatus.DONE
        refusal = _refuse_record(record, attempt - 1)
        if refusal is not None:
            return refusal
        if record.phase is not Phase.MOVING:
            return WriteStatus.SUPERSEDED
        phase = advance(record.phase, Phase.QUEUED, record)
        crashes = record.crashes + crashed
        held.record = replace(record, phase=phase, attempt=attempt, owner=None, crashes=crashes, num_tokens=num_tokens)
        return WriteStatus.DONE

    def close(self, request_id: RequestId, attempt: int, phase: Phase, *, dead_letter: bool = False) -> WriteStatus:
        held = self._state.held.get(request_id)
        if held is None:
            return WriteStatus.MISSING
        record = held.record
        if record.phase in TERMINAL:
            return WriteStatus.DONE if record.phase is phase else WriteStatus.ENDED
        if attempt < record.attempt:
            return WriteStatus.SUPERSEDED
        # A record that went back to QUEUED with a server's last writes ends all the same once its log has.
        after = phase if self._losses else advance(record.phase, phase, record)
        held.record = replace(record, phase=after, attempt=attempt, owner=None)
        self._state.submissions.remove(held.entry_id)
        self._state.reserved_bytes -= reserved_bytes(record.submission)
        if dead_letter:
            self._state.dead.append(record.submission)
        return WriteStatus.DONE

    def dead_letters(self) -> tuple[Submission, ...]:
        """Of requests that too many crashes ended, the oldest first."""
        return tuple(self._state.dead)

    def record(self, request_id: RequestId) -> Record | None:
        held = self._state.held.get(request_id)
        return held.record if held else None

    def records(self, request_ids: tuple[RequestId, ...]) -> tuple[Record | None, ...]:
        return tuple(map(self.record, request_ids))

    def all_records(self) -> tuple[Record, ...]:
        """Ended or not: for those who look from outside."""
        return tuple(held.record for held in self._state.held.values())

    # -- streams

    def read_submissions(self, after: str, *, count: int = 100) -> tuple[tuple[str, Submission], ...]:
        return self._state.submissions.read(after, count)

    def read_events(self, after: str, *, count: int = 500) -> tuple[tuple[str, PoolEvent], ...]:
        return self._state.events.read(after, count)

    def newest_event(self) -> str:
        return self._state.events.newest

    def read_jobs(self, worker: WorkerRef, after: str, *, count: int = 16) -> tuple[tuple[str, Job], ...]:
        return self._state.jobs.get(worker, Stream[Job]()).read(after, count)

    def read_control(self, worker: WorkerRef, after: str, *, count: int = 100) -> tuple[tuple[str, Control], ...]:
        return self._state.control.get(worker, Stream[Control]()).read(after, count)

    def newest(self, worker: WorkerRef) -> tuple[str, str]:
        return self._state.jobs.get(worker, Stream[Job]()).newest, self._state.control.get(worker, Stream[Control]()).newest

    def tell_worker(self, worker: WorkerRef, message: Control) -> None:
        self._state.control.setdefault(worker, Stream()).add(message, self._clock.wall_ms())
        self._watch("control", str(worker))

    # -- membership and explanations

    def join(self, info: WorkerInfo, ttl_s: float) -> None:
        self._state.members[info.ref] = Member(info, ttl_s, self._clock.wall_ms() + 1000 * ttl_s)

    def leave(self, worker: WorkerRef) -> None:
        """Its streams are emptied. They keep their place: should it live after all, it reads on behind where it was."""
        self._state.members.pop(worker, None)
        if jobs := self._state.jobs.get(worker):
            jobs.clear()
        if control := self._state.control.get(worker):
            control.clear()

    def members(self) -> tuple[WorkerInfo, ...]:
        """In no order that says anything."""
        now_ms = self._clock.wall_ms()
        return tuple(member.info for _, member in sorted(self._state.members.items()) if member.until_ms > now_ms)

    def publish_load(
        self, epoch: int, waiting: int, max_waiting: int, predicted_wait_s: float, takes_per_s: float = 0.0, kv_takes_per_s: float = 0.0
    ) -> WriteStatus:
        if epoch < self._state.lease.epoch:
            return WriteStatus.SUPERSEDED
        self._state.load = Load(waiting, max_waiting, predicted_wait_s, takes_per_s, kv_takes_per_s)
        return WriteStatus.DONE

    def tell_story(self, request_id: RequestId, lines: tuple[StoryLine, ...]) -> None:
        story = self._state.stories.setdefault(request_id, [])
        if tuple(story[-len(lines) :]) != lines:
            story.extend(lines)

    def story(self, request_id: RequestId) -> tuple[StoryLine, ...]:
        return tuple(self._state.stories.get(request_id, ()))


def _refuse_record(record: Record, attempt: int) -> WriteStatus | None:
    """Why a write that expects `record` to be live under `attempt` touches nothing."""
    if record.phase in TERMINAL:
        return WriteStatus.ENDED
    return WriteStatus.SUPERSEDED if record.attempt != attempt else None


def _same(one: Append, other: Append) -> bool:
    """Equal in all but the writers' clocks."""
    return _timeless(one) == _timeless(other)


def _timeless(append: Append) -> Append:
    attempt, tokens, end = append
    return attempt, tuple(entry._replace(at_ms=0) for entry in tokens), replace(end, at_ms=0) if end else None
