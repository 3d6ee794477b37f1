"""The fabric of the small world: records, logs and job streams in dictionaries."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from scheduler.events import Requeue
from shared.fabric import FenceAnswer, Record, WriteStatus
from shared.messages import Assign, AssistOrder, Job
from shared.request import TERMINAL, advance
from shared.types import MoveCause, Phase, RequestId, WorkerRef


@dataclass
class Log:
    fence: int = 1
    written: int = 0
    ended: Phase | None = None


@dataclass
class Pool:
    """The fabric: records, logs, job streams. Every write as `shared/fabric.py` says, repeats included."""

    records: dict[RequestId, Record] = field(default_factory=dict)
    logs: dict[RequestId, Log] = field(default_factory=dict)
    streams: dict[WorkerRef, list[Job]] = field(default_factory=dict)
    epoch: int = 1
    placed: dict[tuple[RequestId, int], Assign] = field(default_factory=dict)

    def place(self, epoch: int, worker: WorkerRef, job: Job) -> WriteStatus:
        stream = self.streams.get(worker)
        if epoch != self.epoch or stream is None:
            return WriteStatus.SUPERSEDED
        if isinstance(job, AssistOrder):
            stream.append(job)
            return WriteStatus.DONE
        held = self.records[job.request_id]
        if self.placed.get((job.request_id, job.attempt)) == job:
            return WriteStatus.DONE
        if held.phase in TERMINAL:
            return WriteStatus.ENDED
        if held.cancel_asked:
            return WriteStatus.CANCELLED
        if held.phase is not Phase.QUEUED or held.attempt != job.attempt:
            return WriteStatus.SUPERSEDED
        assert (job.request_id, job.attempt) not in self.placed, f"{job} is the second placement of its attempt"
        self.placed[job.request_id, job.attempt] = job
        self._write(held, Phase.RUNNING, owner=worker, num_tokens=job.num_tokens)
        stream.append(job)
        return WriteStatus.DONE

    def begin_move(self, epoch: int, request_id: RequestId, attempt: int) -> WriteStatus:
        held = self.records[request_id]
        if held.phase in TERMINAL:
            return WriteStatus.ENDED
        if epoch != self.epoch or held.attempt != attempt:
            return WriteStatus.SUPERSEDED
        if held.phase is not Phase.MOVING:
            self._write(held, Phase.MOVING)
        return WriteStatus.DONE

    def raise_fence(self, request_id: RequestId, attempt: int) -> FenceAnswer:
        log = self.logs[request_id]
        if attempt < log.fence:
            return FenceAnswer(WriteStatus.SUPERSEDED)
        log.fence = attempt
        return FenceAnswer(WriteStatus.DONE, log.written, log.ended)

    def requeue(self, epoch: int, command: Requeue) -> WriteStatus:
        held = self.records[command.request_id]
        if held.phase in TERMINAL:
            return WriteStatus.ENDED
        if epoch != self.epoch:
            return WriteStatus.SUPERSEDED
        if held.phase is Phase.QUEUED and held.attempt == command.attempt:
            return WriteStatus.DONE
        if held.phase is not Phase.MOVING or held.attempt != command.attempt - 1:
            return WriteStatus.SUPERSEDED
        if held.cancel_asked:
            return WriteStatus.CANCELLED
        crashes = held.crashes + (command.cause is MoveCause.CRASH)
        self._write(held, Phase.QUEUED, attempt=command.attempt, owner=None, crashes=crashes, num_tokens=command.num_tokens)
        return WriteStatus.DONE

    def append(self, request_id: RequestId, attempt: int, tokens: int, end: Phase | None) -> WriteStatus:
        log = self.logs[request_id]
        if attempt != log.fence:
            return WriteStatus.SUPERSEDED
        if log.ended is not None:
            return WriteStatus.ENDED
        log.written += tokens
        log.ended = end
        return WriteStatus.DONE

    def close(self, request_id: RequestId, attempt: int, phase: Phase) -> WriteStatus:
        held = self.records[request_id]
        if held.phase in TERMINAL:
            return WriteStatus.ENDED
        if attempt < held.attempt:
            return WriteStatus.SUPERSEDED
        assert self.logs[request_id].ended is phase, f"{request_id} is closed as {phase}, its log says {self.logs[request_id]}"
        self.records[request_id] = replace(held, phase=phase)
        return WriteStatus.DONE

    def _write(self, held: Record, phase: Phase, **changes: object) -> None:
        advance(held.phase, phase, held)
        self.records[held.request_id] = replace(held, phase=phase, **changes)  # type: ignore[arg-type]
