"""A worker's spans, from its core's events and commands: head start, transfer, prefill, decode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from opentelemetry.context import Context
from opentelemetry.trace import Tracer

from shared.clock import Clock
from shared.messages import ReleaseAssist, Report, StopAssist
from shared.tracing import context_of, tell, tracer
from shared.types import AssistId, RequestId, TransferId, WorkerRef
from workers.events import (
    Closed,
    DropOutput,
    Emit,
    OpenOutput,
    Ordered,
    PullEnded,
    SendReport,
    StartPull,
    WorkerCommand,
    WorkerEvent,
)


@dataclass(slots=True)
class _Owned:
    context: Context
    attempt: int
    prompt: int
    prefill_ms: int
    """When its prefill here could begin: taken, or pulled."""
    first_ms: int = 0
    last_ms: int = 0
    tokens: int = 0


@dataclass(slots=True)
class _HeadStart:
    context: Context
    request: RequestId
    started_ms: int
    limit: int
    offered: int = 0


class WorkerTracing:
    """`watch` is called after every event. A request without a context costs one look."""

    def __init__(self, ref: WorkerRef, clock: Clock, into: Tracer | None = None) -> None:
        self._ref = str(ref)
        self._clock = clock
        self._tracer = into or tracer()
        self._owned: dict[RequestId, _Owned] = {}
        self._head_starts: dict[AssistId, _HeadStart] = {}
        self._pulls: dict[TransferId, tuple[StartPull, int]] = {}

    def watch(self, events: Sequence[WorkerEvent], commands: Sequence[WorkerCommand]) -> None:
        now = self._clock.wall_ms()
        for event in events:
            self._note_event(event, now)
        for command in commands:
            if self._owned or type(command) is not Emit:
                self._note(command, now)
        for event in events:
            if isinstance(event, Closed):
                self._end(event.request_id, "")

    def _note_event(self, event: WorkerEvent, now: int) -> None:
        match event:
            case Ordered(job, spec) if spec.trace and (context := context_of(spec.trace)):
                self._head_starts.setdefault(job.assist, _HeadStart(context, spec.request_id, now, job.limit))
            case StopAssist() | ReleaseAssist():
                self._end_head_start(event.assist, now)
            case PullEnded():
                self._pulled(event, now)

    def _note(self, command: WorkerCommand, now: int) -> None:
        match command:
            case OpenOutput(spec, attempt):
                if spec.trace and (context := context_of(spec.trace)):
                    self._owned[spec.request_id] = _Owned(context, attempt, len(spec.prompt), now)
            case Emit():
                self._emitted(command, now)
            case StartPull() if command.request_id in self._owned:
                self._pulls[command.transfer] = (command, now)
            case DropOutput():
                self._end(command.request_id, "the request went elsewhere")
            case SendReport():
                self._reported(command.report, now)

    def _emitted(self, emit: Emit, now: int) -> None:
        owned = self._owned.get(emit.request_id)
        if owned is None:
            return
        if not owned.first_ms:
            owned.first_ms = now
            attributes = {**self._attributes(emit.request_id, owned.attempt), "headstart.prompt_tokens": owned.prompt}
            tell(self._tracer, "prefill", owned.context, owned.prefill_ms, now, attributes)
        owned.last_ms, owned.tokens = now, owned.tokens + len(emit.token_ids)

    def _end(self, request_id: RequestId, error: str) -> None:
        owned = self._owned.pop(request_id, None)
        if owned is not None and owned.first_ms:
            attributes = {**self._attributes(request_id, owned.attempt), "headstart.generated_tokens": owned.tokens}
            tell(self._tracer, "decode", owned.context, owned.first_ms, owned.last_ms, attributes, error)

    def _pulled(self, event: PullEnded, now: int) -> None:
        pull, started = self._pulls.pop(event.transfer, (None, 0))
        owned = self._owned.get(pull.request_id) if pull else None
        if pull is None or owned is None:
            return
        owned.prefill_ms = now
        attributes = {
            **self._attributes(pull.request_id, pull.attempt),
            "headstart.source": str(pull.source),
            "headstart.tokens": len(pull.span),
            "headstart.good_tokens": event.good_tokens,
            "headstart.bytes": event.bytes_moved,
        }
        tell(self._tracer, "transfer", owned.context, started, now, attributes, event.error)

    def _reported(self, report: Report, now: int) -> None:
        """A head start is computing until it is stopped, complete, or gone from a report."""
        listed = {assist.assist: assist for assist in report.assists}
        for assist, held in list(self._head_starts.items()):
            held.offered = listed[assist].offered if assist in listed else held.offered
            if assist not in listed or held.offered >= held.limit or listed[assist].stopped:
                self._end_head_start(assist, now)

    def _end_head_start(self, assist: AssistId, now: int) -> None:
        held = self._head_starts.pop(assist, None)
        if held is not None:
            attributes: dict[str, str | int] = {
                "headstart.request": held.request,
                "headstart.worker": self._ref,
                "headstart.tokens": held.offered,
            }
            tell(self._tracer, "head start", held.context, held.started_ms, now, attributes)

    def _attributes(self, request_id: RequestId, attempt: int) -> dict[str, str | int]:
        return {"headstart.request": request_id, "headstart.worker": self._ref, "headstart.attempt": attempt}
