"""A small honest world for the core: a fabric of dictionaries and workers of a few lines, under faults that are drawn.

It keeps its own books, so that it is an oracle: no attempt is placed twice, no worker is promised more than it has, every
request ends, and nothing is left anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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
from shared.messages import (
    Assign,
    AssistOrder,
    CancelAsked,
    Credit,
    Job,
    Report,
)
from shared.request import TERMINAL
from shared.types import JobSeq, RequestId, WorkerRef
from tests.unit.scheduler.device import TOTAL_BLOCKS, Device
from tests.unit.scheduler.pool import Log, Pool
from tests.unit.scheduler.support import FAST, SLOW, info, record, submission


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
