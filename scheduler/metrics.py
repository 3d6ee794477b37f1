"""What a scheduler counts, from its core's events and commands as the shell carries them: the core itself counts nothing."""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.events import (
    Deposed,
    Elected,
    EndWritten,
    Forget,
    Known,
    Left,
    Placed,
    PublishLoad,
    RecordClosed,
    Requeue,
    Requeued,
    SchedulerCommand,
    SchedulerEvent,
    TellStory,
    WriteEnd,
)
from shared.clock import Clock
from shared.fabric import WriteStatus
from shared.messages import Assign, Report
from shared.metrics import HANDOVER_ALARMS, MICROSECONDS, SECONDS, SHARES, TOKENS, UNDECODABLE, MetricSet
from shared.types import MoveCause, Phase, RequestId, WorkerRef


class SchedulerMetrics(MetricSet):
    """The series of one scheduler; one that stands by shows zeros. `watch` is called after every event."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._since: dict[RequestId, float] = {}
        """When a waiting request was learnt of."""
        self._causes: dict[RequestId, MoveCause] = {}
        self._ends: dict[RequestId, Phase] = {}
        self._owned: dict[WorkerRef, int] = {}
        self._make()

    def _make(self) -> None:
        self.leading = self.gauge("scheduler_leading", "1 while this scheduler leads, 0 while it stands by.")
        self.waiting = self.gauge("num_requests_waiting", "Requests in the backlog.")
        self.running = self.gauge("num_requests_running", "Requests that workers say they own.")
        self.workers = self.gauge("workers", "Worker incarnations heard of and not gone.")
        self.queue_s = self.histogram("request_queue_time_seconds", "From learning of a request to its first placement.", SECONDS)
        self.decision_s = self.histogram("decision_seconds", "Of the core, for one event.", MICROSECONDS)
        self.cut = self.histogram("cut_tokens", "Tokens of the head start with which a request was taken; 0 without one.", TOKENS)
        self.cut_share = self.histogram("cut_share", "The same as a share of the prompt.", SHARES)
        self.placements = self.counter("placements", "Jobs that were placed, or refused by the server.", ["job", "status"])
        self.moves = self.counter("moves", "Requests that went back to the queue.", ["cause"])
        self.head_starts = self.counter("head_starts", "Head starts by what the scheduler knows of them.", ["outcome"])
        self._undecodable = self.counter("undecodable_messages", UNDECODABLE, ["cause"])
        self._alarms = self.counter("handover_alarms", HANDOVER_ALARMS, ["cause"])
        self.ended = self.counter("requests_ended", "Requests that the scheduler itself ended.", ["phase"])

    def watch(self, event: SchedulerEvent, commands: Sequence[SchedulerCommand], seconds: float) -> None:
        self.decision_s.observe(seconds)
        self._note_event(event)
        for command in commands:
            self._note_command(command)

    def undecodable(self, cause: str) -> None:
        self._undecodable.labels(cause).inc()

    def alarmed(self, cause: str) -> None:
        self._alarms.labels(cause).inc()

    def _note_event(self, event: SchedulerEvent) -> None:
        match event:
            case Known(record):
                if record.phase is Phase.QUEUED and record.attempt == 1:
                    self._since.setdefault(record.request_id, self._clock.monotonic())
            case Placed():
                self._placed(event)
            case Report():
                self._reported(event)
            case Requeued():
                cause = self._causes.pop(event.request_id, None)
                if cause is not None and event.status is WriteStatus.DONE:
                    self.moves.labels(str(cause)).inc()
            case EndWritten():
                phase = self._ends.pop(event.request_id, None)
                if phase is not None and event.status is WriteStatus.DONE:
                    self.ended.labels(str(phase)).inc()
            case RecordClosed():
                self._forget(event.request_id)
            case Left(ref):
                self._gone(ref)
            case Elected():
                self.leading.set(1)
            case Deposed():
                self._deposed()

    def _note_command(self, command: SchedulerCommand) -> None:
        match command:
            case Requeue():
                self._causes[command.request_id] = command.cause
            case WriteEnd():
                self._ends[command.request_id] = command.phase
            case PublishLoad():
                self.waiting.set(command.waiting)
            case Forget(ref):
                self._gone(ref)
            case TellStory(_, "head_start_lost"):
                self.head_starts.labels("lost").inc()

    def _placed(self, event: Placed) -> None:
        job, assigns = event.job, isinstance(event.job, Assign)
        self.placements.labels("assign" if assigns else "assist", str(event.status)).inc()
        if event.status is not WriteStatus.DONE:
            return
        if isinstance(job, Assign):
            self._assigned(job)
        else:
            self.head_starts.labels("ordered").inc()

    def _assigned(self, job: Assign) -> None:
        cut = job.source.tokens if job.source else 0
        self.cut.observe(cut)
        self.cut_share.observe(cut / max(1, job.num_tokens))
        if cut:
            self.head_starts.labels("taken").inc()
        since = self._since.pop(job.request_id, None)
        if since is not None:
            self.queue_s.observe(self._clock.monotonic() - since)

    def _reported(self, report: Report) -> None:
        self._owned[report.ref] = len(report.owned)
        for request_id in report.closed:
            self._forget(request_id)
        self._show_workers()

    def _gone(self, ref: WorkerRef) -> None:
        self._owned.pop(ref, None)
        self._show_workers()

    def _show_workers(self) -> None:
        self.workers.set(len(self._owned))
        self.running.set(sum(self._owned.values()))

    def _forget(self, request_id: RequestId) -> None:
        for book in (self._since, self._causes, self._ends):
            book.pop(request_id, None)

    def _deposed(self) -> None:
        """What another leads is not ours to show."""
        for book in (self._since, self._causes, self._ends, self._owned):
            book.clear()
        for gauge in (self.leading, self.waiting, self.running, self.workers):
            gauge.set(0)
