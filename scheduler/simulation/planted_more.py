"""More bugs planted on purpose: in the server's scripts, in a worker's shell, in its core. One each, as in `planted.py`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from scheduler.simulation.answer import Letters
from scheduler.simulation.build import Parts
from scheduler.simulation.worker_shell import SimMover, WorkerShell
from shared.clock import Clock
from shared.fabric import FenceAnswer, SubmitAnswer, WriteStatus
from shared.fabric_model import FabricModel, Watcher
from shared.messages import Assign, Drain, Job, LogEnd, LogTokens, Pull, ReleaseAssist, Report, StopAssist, Submission, WorkerInfo
from shared.types import AssistId, BlockId, Phase, RequestId, WorkerRef
from workers.core import WorkerCore
from workers.events import OpenOutput, PullEnded, SendKv, WorkerCommand, WorkerEvent
from workers.fake_engine import FakeEngine
from workers.output import OutputBook, OutputCommand
from workers.settings import WorkerSettings
from workers.transport import Arrival
from workers.verify import granule_digests

if TYPE_CHECKING:
    from scheduler.simulation.kv_link import SimTransport
    from scheduler.simulation.world import World


class FabricParts(Parts):
    """With another server."""

    kind: type[FabricModel] = FabricModel

    def fabric(self, clock: Clock, watch: Watcher) -> FabricModel:
        return self.kind(clock, watch=watch)


# --- a lease that anybody renews ---------------------------------------------------------------------------------


class _RenewsForAnyone(FabricModel):
    """Whoever has led once renews what is another's by now."""

    def __init__(self, clock: Clock, *, watch: Watcher) -> None:
        super().__init__(clock, watch=watch)
        self._led: set[str] = set()

    def lead(self, candidate: str, ttl_s: float) -> int:
        lease = self._state.lease
        if self._clock.wall_ms() < lease.until_ms and candidate in self._led:
            lease.candidate = candidate
        if epoch := super().lead(candidate, ttl_s):
            self._led.add(candidate)
        return epoch


class LeaseWithoutOwnership(FabricParts):
    kind = _RenewsForAnyone


# --- acknowledged when it is placed, not when it is closed -------------------------------------------------------


class _AcknowledgesFirst(FabricModel):
    def place(self, epoch: int, worker: WorkerRef, job: Job) -> WriteStatus:
        held = self._state.held.get(job.request_id)
        if isinstance(job, Assign) and held is not None:
            self._state.submissions.remove(held.entry_id)
        return super().place(epoch, worker, job)


class AcknowledgedBeforeHandOver(FabricParts):
    kind = _AcknowledgesFirst


# --- the fence is read and not raised ----------------------------------------------------------------------------


class _FenceFollows(FabricModel):
    """The first append of the new attempt raises it."""

    def raise_fence(self, request_id: RequestId, attempt: int) -> FenceAnswer:
        log = self._state.logs.get(request_id)
        if log is None:
            return FenceAnswer(WriteStatus.MISSING)
        return FenceAnswer(WriteStatus.DONE, max(log.next_index.values(), default=0), log.ended)

    def append(self, request_id: RequestId, attempt: int, tokens: tuple[LogTokens, ...], end: LogEnd | None = None) -> WriteStatus:
        log = self._state.logs.get(request_id)
        if log is not None:
            log.fence = max(log.fence, attempt)
        return super().append(request_id, attempt, tokens, end)


class FenceNotRaised(FabricParts):
    kind = _FenceFollows


# --- a second end is written over the first ----------------------------------------------------------------------


class _EndsAgain(FabricModel):
    def append(self, request_id: RequestId, attempt: int, tokens: tuple[LogTokens, ...], end: LogEnd | None = None) -> WriteStatus:
        log = self._state.logs.get(request_id)
        if log is not None and end is not None and attempt == log.fence:
            log.ended = log.last = None
        return super().append(request_id, attempt, tokens, end)


class EndOverwritten(FabricParts):
    kind = _EndsAgain


# --- a log that looks at no index --------------------------------------------------------------------------------


class _AppendsAnything(FabricModel):
    def append(self, request_id: RequestId, attempt: int, tokens: tuple[LogTokens, ...], end: LogEnd | None = None) -> WriteStatus:
        log = self._state.logs.get(request_id)
        if log is not None:
            log.last = None
            for entry in tokens:
                log.next_index[entry.choice] = entry.index
        return super().append(request_id, attempt, tokens, end)


class NoIndexCheck(FabricParts):
    kind = _AppendsAnything


# --- the record first, the stream entry in a second script that nobody repeats ------------------------------------


class _SubmitsTwice(FabricModel):
    """A repeated submission is a second request: its record starts again."""

    def submit(self, submission: Submission, *, idempotency_key: str = "", body_digest: str = "", retry_key: str = "") -> SubmitAnswer:
        self._state.held.pop(submission.request_id, None)
        return super().submit(submission, idempotency_key=idempotency_key, body_digest=body_digest, retry_key=retry_key)


class SubmissionNotRepeatable(FabricParts):
    kind = _SubmitsTwice


# --- what arrives is believed ------------------------------------------------------------------------------------


class _TrustingMover(SimMover):
    def _arrived(self, arrival: Arrival) -> None:
        if arrival.transfer in self._pulls:
            digests = granule_digests(arrival.payload, self._granule_bytes)
            header = replace(arrival.header, digests=(*digests, *arrival.header.digests[len(digests) :]))
            arrival = replace(arrival, header=header)
        super()._arrived(arrival)


class _TrustingShell(WorkerShell):
    def connect(self, transport: SimTransport) -> None:
        self.transport = transport
        self._mover = _TrustingMover(self.ref, self.engine, transport, self._tell_worker, self._moved)
        self._mover.process = self
        self._mover.start()


class NoDigestCheck(Parts):
    def worker_shell(self, world: World, info: WorkerInfo, core: WorkerCore, engine: FakeEngine) -> WorkerShell:
        return _TrustingShell(world, info, core, engine, OutputBook(Letters(), world.clock))


# --- progress rises by what was asked for, not by what was good ---------------------------------------------------


class _BelievesTheSpan(WorkerCore):
    def on_pull_ended(self, event: PullEnded) -> None:
        intake = self.intakes.get(event.transfer)
        super().on_pull_ended(replace(event, good_tokens=len(intake.span)) if intake and event.bytes_moved else event)


class BadRangeNotRecomputed(Parts):
    def worker_core(self, settings: WorkerSettings) -> WorkerCore:
        return _BelievesTheSpan(settings)


# --- a head start is let go when it is taken, and its pull is answered from where its blocks were ----------------------


class _AnswersFromMemory(WorkerCore):
    def __init__(self, settings: WorkerSettings) -> None:
        super().__init__(settings)
        self._remembered: dict[AssistId, tuple[BlockId, ...]] = {}

    def handle(self, event: WorkerEvent, now: float) -> list[WorkerCommand]:
        self._remembered |= {name: tuple(assist.sequence.blocks) for name, assist in self.assists.items()}
        commands = super().handle(event, now)
        if isinstance(event, StopAssist) and event.taken_by:
            commands += super().handle(ReleaseAssist(event.assist), now)
        return commands

    def on_pull(self, event: Pull) -> None:
        table = self._remembered.get(event.assist, ())[: self.blocks.blocks_for(event.span.stop)]
        if event.assist in self.assists or len(table) < self.blocks.blocks_for(event.span.stop):
            super().on_pull(event)
        else:
            self.command(SendKv(event.transfer, event.request_id, event.attempt, event.requester, event.address, event.span, table))


class StaleOffer(Parts):
    def worker_core(self, settings: WorkerSettings) -> WorkerCore:
        return _AnswersFromMemory(settings)


# --- a drained worker does not wait for what is under way ----------------------------------------------------------


class _LeavesInHaste(WorkerShell):
    def _report(self, report: Report) -> None:
        super()._report(report)
        if report.state.value == "draining" and not self._leaving:
            self._leaving = True
            self.after(0.05, self._leave)


class DrainInHaste(Parts):
    def worker_shell(self, world: World, info: WorkerInfo, core: WorkerCore, engine: FakeEngine) -> WorkerShell:
        return _LeavesInHaste(world, info, core, engine, OutputBook(Letters(), world.clock))


# --- a job that waits while its worker is drained is ended with it --------------------------------------------------


class _DropsJobs(WorkerShell):
    def _on_control(self, message: object) -> None:
        if isinstance(message, Drain):
            for job in self._jobs:
                self.world.fabric.close(job.request_id, 1, Phase.CANCELLED)
            for request_id, owned in list(self.core.owned.items()):
                self.world.fabric.close(request_id, owned.attempt, Phase.CANCELLED)
        super()._on_control(message)  # type: ignore[arg-type]


class DrainDropsJob(Parts):
    def worker_shell(self, world: World, info: WorkerInfo, core: WorkerCore, engine: FakeEngine) -> WorkerShell:
        return _DropsJobs(world, info, core, engine, OutputBook(Letters(), world.clock))


# --- the next owner forgets what was held back ---------------------------------------------------------------------


class _ForgetfulBook(OutputBook):
    """Delivered tokens are not pushed again: what their end may be the head of a stop string is lost."""

    def handle(self, command: OutputCommand) -> None:
        if isinstance(command, OpenOutput):
            forgotten = tuple(replace(known, token_ids=()) for known in command.delivered)
            command = replace(command, delivered=forgotten)
        super().handle(command)


class StopBufferForgotten(Parts):
    def worker_shell(self, world: World, info: WorkerInfo, core: WorkerCore, engine: FakeEngine) -> WorkerShell:
        return WorkerShell(world, info, core, engine, _ForgetfulBook(Letters(), world.clock))


# --- the next leader does not know whose end it closes -------------------------------------------------------------


class _EndWithoutItsCode(FabricModel):
    """Says that a log has ended, and not why."""

    def raise_fence(self, request_id: RequestId, attempt: int) -> FenceAnswer:
        return replace(super().raise_fence(request_id, attempt), code="")


class LetterForgotten(FabricParts):
    kind = _EndWithoutItsCode
