"""A small honest world for the core: a fabric of dictionaries and workers of a few lines, under faults that are drawn.

It keeps its own books, so that it is an oracle: no attempt is placed twice, no worker is promised more than it has, every
request ends, and nothing is left anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

from scheduler.core import SchedulerCore
from scheduler.events import (
    BeginMove,
    Close,
    Command,
    Deposed,
    Elected,
    EndWritten,
    FenceRaised,
    Joined,
    Known,
    MoveBegun,
    Place,
    Placed,
    RaiseFence,
    Reconnected,
    RecordClosed,
    Requeue,
    Requeued,
    Reread,
    SchedulerCommand,
    SchedulerEvent,
    TellStory,
    Tick,
    WriteEnd,
)
from scheduler.settings import SchedulerSettings
from shared.fabric import FenceAnswer, Record, WriteStatus
from shared.messages import (
    Assign,
    AssistOrder,
    AssistState,
    Cancel,
    CancelAsked,
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
from shared.request import TERMINAL, advance
from shared.types import AssistId, JobSeq, MoveCause, Phase, RequestId, WorkerRef, whole_granules
from tests.unit.scheduler.support import FAST, SLOW, info, record, submission

TOTAL_BLOCKS = 120
SEQUENCES = 6


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


class World:
    """Drives one core (a new one after each election) through `rounds` of 0.2 s, then lets everything heal."""

    def __init__(self, random: Random, *, loss: float = 0.0, **settings: object) -> None:
        self.random, self.loss = random, loss
        self.settings = SchedulerSettings(**settings)  # type: ignore[arg-type]
        self.pool, self.core, self.now = Pool(), SchedulerCore(self.settings), 100.0
        self.devices: dict[WorkerRef, Device] = {}
        self.leader = 1
        self.late: list[SchedulerEvent] = []
        self.credit: dict[WorkerRef, tuple[Credit, JobSeq]] = {}
        self.unseen: dict[WorkerRef, dict[JobSeq, Job]] = {}
        self.issued: dict[JobSeq, float] = {}
        self.send(Elected(1))

    # -- faults and work, as the test draws them

    def submit(self, n: int, max_tokens: int, **more: object) -> RequestId:
        wanted = submission(f"r{len(self.pool.records)}", n=n, max_tokens=max_tokens, **more)  # type: ignore[arg-type]
        self.pool.records[wanted.request_id] = record(wanted)
        self.pool.logs[wanted.request_id] = Log()
        self.send(Known(self.pool.records[wanted.request_id]))
        return wanted.request_id

    def cancel(self, request_id: RequestId) -> None:
        held = self.pool.records[request_id]
        if held.phase not in TERMINAL:
            self.pool.records[request_id] = replace(held, cancel_asked=True)
            self.send(CancelAsked(request_id))

    def start(self, name: str, incarnation: int, *, fast: bool) -> None:
        member = info(name, FAST if fast else SLOW, str(incarnation), total_blocks=TOTAL_BLOCKS)
        self.devices = {r: device for r, device in self.devices.items() if r.worker != member.ref.worker}
        self.devices[member.ref] = Device(self.pool, member)
        self.pool.streams.setdefault(member.ref, [])
        self.send(Joined(member))

    def kill(self, worker: WorkerRef) -> None:
        self.devices.pop(worker, None)

    def elect(self) -> None:
        """Another scheduler takes over: it knows nothing but records, members and, later, reports."""
        self.send(Deposed())
        self.pool.epoch += 1
        self.leader, self.core, self.unseen, self.late = self.pool.epoch, SchedulerCore(self.settings), {}, []
        self.send(Elected(self.leader))
        for held in list(self.pool.records.values()):
            if held.phase not in TERMINAL:
                self.send(Known(held))
        for device in self.devices.values():
            self.send(Joined(device.info))

    def reconnect(self) -> None:
        self.send(Reconnected())

    def round(self, seconds: float = 0.2) -> None:
        self.now += seconds
        self._deliver_late()
        for device in list(self.devices.values()):
            device.step()
            self._report(device)
        self.send(Tick())

    def _report(self, device: Device) -> None:
        report = device.report()
        if not self._lost():
            self.credit[device.ref] = (report.credit, report.seen)
            unseen = self.unseen.get(device.ref, {})
            self.unseen[device.ref] = {seq: job for seq, job in unseen.items() if seq > report.seen}
            self.send(report)
            if self.random.random() < self.loss:
                self.late.append(report)

    def heal(self, limit: int = 600) -> None:
        """No faults any more, one fast worker at least: everything ends."""
        self.loss = 0.0
        for _ in range(limit):
            self.round()
            if self.ended() and not any(device.assists or device.owned for device in self.devices.values()):
                return
        raise AssertionError(f"not healed: {self.core!r} {[r for r in self.pool.records.values() if r.phase not in TERMINAL]}")

    def ended(self) -> bool:
        return all(held.phase in TERMINAL for held in self.pool.records.values()) and "waiting 0 | running 0 | writes 0" in repr(self.core)

    # -- the shell

    def send(self, event: SchedulerEvent) -> None:
        commands = self.core.handle(event, self.now)
        self.core.check()
        for said in (event, *commands):
            self._give_up(said)
        for command in commands:
            if isinstance(command, Place):
                self._check_promise(command)
            if self._lost():
                continue
            answer = self._execute(command)
            if answer is not None and not self._lost():
                self.send_or_delay(answer)

    def send_or_delay(self, event: SchedulerEvent) -> None:
        if self.random.random() < self.loss:
            self.late.append(event)
        else:
            self.send(event)
        if self.random.random() < self.loss:
            self.late.append(event)

    def _deliver_late(self) -> None:
        late, self.late = self.late, []
        self.random.shuffle(late)
        for event in late:
            self.send(event)

    def _lost(self) -> bool:
        return self.random.random() < self.loss

    def _check_promise(self, place: Place) -> None:
        """The oracle: what this world's own books say the worker has left."""
        unseen = self.unseen.setdefault(place.worker, {})
        if place.job.seq in unseen or place.worker not in self.credit or place.job.seq <= self.credit[place.worker][1]:
            return
        credit, _ = self.credit[place.worker]
        unseen[place.job.seq] = place.job
        self.issued[place.job.seq] = self.now
        self._drop_jobs(lambda job: isinstance(job, AssistOrder) and self.now - self.issued[job.seq] >= self.settings.liveness_s)
        costs = [self._cost(place.worker, job) for job in self.unseen[place.worker].values()]
        assert sum(blocks for blocks, _ in costs) <= credit.blocks, f"{place} overfills the blocks of {credit}: {unseen}"
        assert sum(sequences for _, sequences in costs) <= credit.sequences, f"{place} overfills the sequences of {credit}: {unseen}"

    def _cost(self, worker: WorkerRef, job: Job) -> tuple[int, int]:
        if isinstance(job, Assign) and job.source is not None and job.source.worker == worker:
            return 0, 0
        return -(-(job.limit if isinstance(job, AssistOrder) else job.num_tokens) // 16), 1

    def _give_up(self, event: SchedulerEvent | SchedulerCommand) -> None:
        """Jobs that the scheduler has given up are promised no more; so is an order that nothing was heard of for a period."""
        match event:
            case BeginMove(request_id) | RaiseFence(request_id) | Reread(request_id):
                self._drop_jobs(lambda job: isinstance(job, Assign) and job.request_id == request_id)
            case TellStory(request_id, "closed"):
                self._drop_jobs(lambda job: isinstance(job, Assign) and job.request_id == request_id)
            case TellStory(_, "head_start_lost", data):
                self._drop_jobs(lambda job: isinstance(job, AssistOrder) and job.assist == data["assist"])
            case Report():
                self._drop_jobs(lambda job: isinstance(job, Assign) and job.request_id in event.closed)

    def _drop_jobs(self, given_up: Callable[[Job], bool]) -> None:
        for worker, unseen in self.unseen.items():
            self.unseen[worker] = {seq: job for seq, job in unseen.items() if not given_up(job)}

    def _execute(self, command: SchedulerCommand) -> SchedulerEvent | None:
        pool, epoch = self.pool, self.leader
        match command:
            case Place(worker, job):
                return Placed(worker, job, pool.place(epoch, worker, job))
            case BeginMove(request_id, attempt):
                return MoveBegun(request_id, attempt, pool.begin_move(epoch, request_id, attempt))
            case RaiseFence(request_id, attempt):
                return FenceRaised(request_id, attempt, pool.raise_fence(request_id, attempt))
            case Requeue(request_id, attempt, num_tokens):
                return Requeued(request_id, attempt, num_tokens, pool.requeue(epoch, command))
            case WriteEnd(request_id, attempt, phase):
                return EndWritten(request_id, attempt, pool.append(request_id, attempt, 0, phase))
            case Close(request_id, attempt, phase):
                return RecordClosed(request_id, pool.close(request_id, attempt, phase))
            case Reread(request_id):
                return Known(pool.records[request_id])
            case Command(worker, message) if worker in self.devices:
                self.devices[worker].command(message)
        return None
