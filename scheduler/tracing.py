"""The scheduler's span: a request's time in the queue, once for each attempt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from opentelemetry.context import Context
from opentelemetry.trace import Tracer

from scheduler.events import Deposed, Known, Placed, RecordClosed, Requeued, SchedulerCommand, SchedulerEvent
from shared.clock import Clock
from shared.fabric import WriteStatus
from shared.messages import Assign, Report
from shared.tracing import context_of, tell, tracer
from shared.types import RequestId


@dataclass(slots=True)
class _Waiting:
    context: Context
    since_ms: int


class SchedulerTracing:
    """`watch` is called after every event."""

    def __init__(self, clock: Clock, into: Tracer | None = None) -> None:
        self._clock = clock
        self._tracer = into or tracer()
        self._waiting: dict[RequestId, _Waiting] = {}

    def watch(self, event: SchedulerEvent, commands: Sequence[SchedulerCommand], seconds: float) -> None:
        match event:
            case Known(record):
                context = context_of(record.submission.trace)
                if context is not None and record.request_id not in self._waiting:
                    self._waiting[record.request_id] = _Waiting(context, self._clock.wall_ms())
            case Placed(worker, Assign() as job, WriteStatus.DONE):
                self._placed(str(worker), job)
            case Requeued(status=WriteStatus.DONE) if event.request_id in self._waiting:
                self._waiting[event.request_id].since_ms = self._clock.wall_ms()
            case Report():
                for request_id in event.closed:
                    self._waiting.pop(request_id, None)
            case RecordClosed():
                self._waiting.pop(event.request_id, None)
            case Deposed():
                self._waiting.clear()

    def _placed(self, worker: str, job: Assign) -> None:
        waiting = self._waiting.get(job.request_id)
        if waiting is not None:
            attributes: dict[str, str | int] = {
                "headstart.request": job.request_id,
                "headstart.worker": worker,
                "headstart.attempt": job.attempt,
                "headstart.cut_tokens": job.source.tokens if job.source else 0,
            }
            tell(self._tracer, "queue", waiting.context, waiting.since_ms, self._clock.wall_ms(), attributes)
