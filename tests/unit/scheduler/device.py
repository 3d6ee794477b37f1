"""The workers of the small world: a few lines each."""

from __future__ import annotations

from dataclasses import dataclass

from shared.fabric import WriteStatus
from shared.messages import (
    Assign,
    AssistOrder,
    AssistState,
    Cancel,
    Credit,
    Job,
    OwnedState,
    ReleaseAssist,
    Report,
    Returned,
    Revoke,
    StopAssist,
    WorkerInfo,
    WorkerState,
)
from shared.types import AssistId, JobSeq, Phase, RequestId, whole_granules
from tests.unit.scheduler.pool import Pool

TOTAL_BLOCKS = 120
SEQUENCES = 6


@dataclass
class Held:
    """A sequence on a worker, owned (`job`) or assisted."""

    num_tokens: int
    computed: int
    limit: int
    job: Assign | None = None
    stopped: bool = False


class Device:
    """A worker: jobs in order, 256 tokens of prefill a step, then a token each for what it owns."""

    def __init__(self, pool: Pool, member: WorkerInfo) -> None:
        self.pool, self.info, self.ref = pool, member, member.ref
        self.counter, self.seen = 0, JobSeq(0, 0)
        self.owned: dict[RequestId, Held] = {}
        self.assists: dict[AssistId, tuple[RequestId, Held]] = {}
        self.closed: list[RequestId] = []
        self.returned: dict[RequestId, Returned] = {}
        self.read = 0

    def step(self) -> None:
        stream = self.pool.streams[self.ref]
        while self.read < len(stream) and self.free_sequences() > 0:
            self._accept(stream[self.read])
            self.read += 1
        for request_id, held in list(self.owned.items()):
            self._advance(request_id, held)
        for _, held in self.assists.values():
            if not held.stopped:
                held.computed = min(held.limit, held.computed + 256)

    def _accept(self, job: Job) -> None:
        self.seen = max(self.seen, job.seq)
        if isinstance(job, AssistOrder):
            self.assists[job.assist] = (job.request_id, Held(job.limit, 0, job.limit))
        elif self.pool.logs[job.request_id].fence <= job.attempt:
            start = job.source.tokens if job.source else 0
            if job.source is not None and job.source.worker == self.ref:
                self.assists.pop(job.source.assist, None)
            self.owned[job.request_id] = Held(job.num_tokens, start, job.num_tokens, job)

    def _advance(self, request_id: RequestId, held: Held) -> None:
        assert held.job is not None
        if held.computed < held.num_tokens - 1:
            held.computed = min(held.num_tokens - 1, held.computed + 256)
            return
        wanted = self.pool.records[request_id].submission
        last = held.num_tokens + 1 - wanted.num_prompt >= wanted.max_tokens
        status = self.pool.append(request_id, held.job.attempt, 1, Phase.FINISHED if last else None)
        held.computed, held.num_tokens = held.computed + 1, held.num_tokens + 1
        if status is not WriteStatus.DONE:
            del self.owned[request_id]
        elif last:
            self._close(request_id, held.job.attempt, Phase.FINISHED)

    def _close(self, request_id: RequestId, attempt: int, phase: Phase) -> None:
        self.pool.close(request_id, attempt, phase)
        del self.owned[request_id]
        self.closed.append(request_id)

    def command(self, message: object) -> None:
        match message:
            case StopAssist(assist) if assist in self.assists:
                self.assists[assist][1].stopped = True
            case ReleaseAssist(assist):
                self.assists.pop(assist, None)
            case Cancel(request_id, error) if request_id in self.owned:
                job = self.owned[request_id].job
                assert job is not None
                phase = Phase.FAILED if error else Phase.CANCELLED
                if self.pool.append(request_id, job.attempt, 0, phase) is WriteStatus.DONE:
                    self._close(request_id, job.attempt, phase)
            case Revoke(request_id, attempt):
                self.returned.pop(request_id, None)
                held = self.owned.get(request_id)
                if held is not None and held.job is not None and held.job.attempt < attempt:
                    del self.owned[request_id]

    def give_back(self, request_id: RequestId) -> None:
        held = self.owned.pop(request_id, None)
        if held is not None and held.job is not None:
            self.returned[request_id] = Returned(request_id, held.job.attempt, "drawn")

    def free_sequences(self) -> int:
        return SEQUENCES - len(self.owned) - len(self.assists)

    def report(self) -> Report:
        self.counter += 1
        used = sum(-(-(held.num_tokens + 40) // 16) for held in self.owned.values())
        used += sum(-(-held.limit // 16) for _, held in self.assists.values())
        busy = any(held.computed < held.num_tokens - 1 for held in self.owned.values())
        credit = Credit(0 if busy else 512, max(0, TOTAL_BLOCKS - used), max(0, self.free_sequences()))
        closed, self.closed = tuple(self.closed), []
        return Report(
            self.ref,
            self.counter,
            WorkerState.READY,
            self.seen,
            credit,
            self._owned(),
            self._assists(),
            closed,
            tuple(self.returned.values()),
        )

    def _owned(self) -> tuple[OwnedState, ...]:
        return tuple(
            OwnedState(r, held.job.attempt, held.num_tokens, held.computed) for r, held in self.owned.items() if held.job is not None
        )

    def _assists(self) -> tuple[AssistState, ...]:
        return tuple(AssistState(a, r, whole_granules(held.computed), held.stopped) for a, (r, held) in self.assists.items())
