"""What a worker counts, from its core's events and commands as the shell carries them: the core itself counts nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from shared.clock import Clock
from shared.fabric import WriteStatus
from shared.messages import Pull, PullRefused, Report
from shared.metrics import HANDOVER_ALARMS, SECONDS, TOKENS, UNDECODABLE, MetricSet
from shared.types import AssistId, FinishReason, Phase, RequestId, TransferId
from workers.core import WorkerCore
from workers.events import (
    Assigned,
    Closed,
    DropOutput,
    Emit,
    EndRequest,
    OpenOutput,
    PullEnded,
    SendEnded,
    SendKv,
    SendReport,
    StartPull,
    StepDone,
    StepFailed,
    StopFound,
    TellStory,
    TellWorker,
    WorkerCommand,
    WorkerEvent,
)
from workers.output import Append, LogWriter


@dataclass(slots=True)
class _Request:
    """An attempt of this worker, for its times."""

    taken_at: float
    prompt: int
    last_at: dict[int, float] = field(default_factory=dict)
    """By choice, the time of its latest token."""
    reason: str = str(FinishReason.STOP)


@dataclass(slots=True)
class _HeadStart:
    offered: int = 0
    taken: int = 0


class WorkerMetrics(MetricSet):
    """The series of one worker. `watch` is called after every event, on the loop; `wrote` on the output's thread."""

    def __init__(self, core: WorkerCore, clock: Clock) -> None:
        super().__init__()
        self._core = core
        self._clock = clock
        self._requests: dict[RequestId, _Request] = {}
        self._head_starts: dict[AssistId, _HeadStart] = {}
        self._pulls: dict[TransferId, StartPull] = {}
        self._make_gauges()
        self._make_counters()
        self._make_transfers()

    def _make_gauges(self) -> None:
        self.running = self.gauge("num_requests_running", "Owned requests of which something is computed.")
        self.waiting = self.gauge("num_requests_waiting", "Owned requests of which nothing is computed yet.")
        self.assisted = self.gauge("num_head_starts", "Head starts held for waiting prompts.")
        self.kv_usage = self.gauge("kv_cache_usage_perc", "Share of the KV blocks that is not free, 0 to 1.")
        self.ttft = self.histogram("time_to_first_token_seconds", "From taking a request to its first token here.", SECONDS)
        self.itl = self.tally("inter_token_latency_seconds", "Between two tokens of a request, as computed.", SECONDS)
        self.e2e = self.histogram("e2e_request_latency_seconds", "From taking a request to its closed record.", SECONDS)
        self.step_s = self.histogram("step_seconds", "Of an engine step.", SECONDS)

    def _make_counters(self) -> None:
        self.prompt_tokens = self.counter("prompt_tokens", "Prompt tokens of requests whose first token was sampled here.")
        self.generation_tokens = self.counter("generation_tokens", "Tokens that this worker brought into logs.")
        self.success = self.counter("request_success", "Requests that ended here.", ["finished_reason"])
        self.preemptions = self.counter("num_preemptions", "Times a request gave its blocks back and waited again.")
        self.prefix_queries = self.counter("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.")
        self.prefix_hits = self.counter("prefix_cache_hits", "Prompt tokens found there.")
        self.given = self.counter("head_starts_given", "Head starts of which something was offered.")
        self.taken = self.counter("head_starts_taken", "Head starts that an owner took, here or by a transfer.")
        self.wasted = self.counter("head_starts_wasted", "Offered head starts that ended without being taken.")
        self.head_start_tokens = self.counter("head_start_tokens", "Tokens of head starts by what became of them.", ["outcome"])
        self.failed_steps = self.counter("failed_steps", "Engine steps that failed.")
        self._undecodable = self.counter("undecodable_messages", UNDECODABLE, ["cause"])
        self._alarms = self.counter("handover_alarms", HANDOVER_ALARMS, ["cause"])

    def _make_transfers(self) -> None:
        self.transfers = self.counter("kv_transfers", "KV transfers that ended.", ["direction", "result"])
        self.bytes = self.counter("kv_transfer_bytes", "Bytes of KV that arrived (in) or were sent whole (out).", ["direction"])
        self.pull_s = self.histogram("kv_transfer_seconds", "Of an arrived transfer, at its receiver.", SECONDS)
        self.pull_tokens = self.histogram("kv_transfer_tokens", "Verified tokens of a transfer, at its receiver.", TOKENS)
        self.verification_failures = self.counter("kv_verification_failures", "Transfers that arrived and were not good as a whole.")
        self.refused_pulls = self.counter("kv_pulls_refused", "Pulls that this worker did not answer: no valid ticket, or nothing to send.")
        self.recomputed = self.counter("recomputed_tokens", "Tokens that were computed anew.", ["cause"])
        self._sends: dict[TransferId, int] = {}

    # -- on the loop

    def undecodable(self, cause: str) -> None:
        self._undecodable.labels(cause).inc()

    def alarmed(self, cause: str) -> None:
        self._alarms.labels(cause).inc()

    def watch(self, events: Sequence[WorkerEvent], commands: Sequence[WorkerCommand]) -> None:
        now = self._clock.monotonic()
        for event in events:
            self._note_event(event, commands)
        for command in commands:
            if type(command) is Emit:
                self._emitted(command, now)
            else:
                self._note_command(command, now)
        for event in events:
            if isinstance(event, Closed):
                self._closed(event.request_id, now)

    def _note_event(self, event: WorkerEvent, commands: Sequence[WorkerCommand]) -> None:
        match event:
            case Assigned(job):
                if job.source and job.source.worker == self._core.settings.ref and job.source.assist in self._head_starts:
                    self._take(job.source.assist, job.source.tokens)
            case Pull() if any(isinstance(command, SendKv) for command in commands):
                self._take(event.assist, len(event.span))
            case PullEnded():
                self._pulled(event)
            case SendEnded():
                self._sent(event)
            case StepDone():
                self.step_s.observe(event.seconds)
            case StepFailed():
                self.failed_steps.inc()
            case StopFound() if event.request_id in self._requests:
                self._requests[event.request_id].reason = str(FinishReason.STOP)

    def _note_command(self, command: WorkerCommand, now: float) -> None:
        match command:
            case OpenOutput():
                prompt = len(command.spec.prompt)
                self._requests[command.spec.request_id] = _Request(now, prompt)
                self.prefix_queries.inc(prompt)
            case EndRequest() if command.request_id in self._requests:
                self._requests[command.request_id].reason = "abort" if command.phase is Phase.CANCELLED else "error"
            case DropOutput():
                self._requests.pop(command.request_id, None)
            case StartPull():
                self._pulls[command.transfer] = command
            case SendKv():
                self._sends[command.transfer] = len(command.span)
            case TellWorker(_, PullRefused()):
                self.refused_pulls.inc()
            case TellStory(_, "preempted", data):
                self.preemptions.inc()
                computed = data.get("num_computed")
                self.recomputed.labels("preemption").inc(computed if isinstance(computed, int) else 0)
            case SendReport():
                self._reported(command.report)

    def _emitted(self, emit: Emit, now: float) -> None:
        request = self._requests.get(emit.request_id)
        if request is None:
            return
        if not request.last_at:
            self.ttft.observe(now - request.taken_at)
        elif (last := request.last_at.get(emit.choice)) is not None:
            self.itl.observe((now - last) / len(emit.token_ids), len(emit.token_ids))
        request.last_at[emit.choice] = now
        if emit.index == 0 and emit.choice == 0:
            self.prompt_tokens.inc(request.prompt)
        if emit.finish is not None:
            request.reason = str(emit.finish)

    def _closed(self, request_id: RequestId, now: float) -> None:
        request = self._requests.pop(request_id, None)
        if request is not None:
            self.success.labels(request.reason).inc()
            self.e2e.observe(now - request.taken_at)

    def _reported(self, report: Report) -> None:
        begun = sum(own.num_computed > 0 for own in report.owned)
        self.running.set(begun)
        self.waiting.set(len(report.owned) - begun)
        self.assisted.set(len(report.assists))
        self.kv_usage.set(1 - self._core.blocks.free_blocks / self._core.settings.total_blocks)
        for listed in report.assists:
            self._offered(listed.assist, listed.offered)
        self._forget({listed.assist for listed in report.assists})

    # -- head starts

    def _offered(self, assist: AssistId, offered: int) -> None:
        held = self._head_starts.setdefault(assist, _HeadStart())
        if offered > held.offered:
            if not held.offered:
                self.given.inc()
            self.head_start_tokens.labels("given").inc(offered - held.offered)
            held.offered = offered

    def _take(self, assist: AssistId, tokens: int) -> None:
        held = self._head_starts.setdefault(assist, _HeadStart())
        if not held.taken:
            self.taken.inc()
            self.head_start_tokens.labels("taken").inc(tokens)
        held.taken = tokens

    def _forget(self, present: set[AssistId]) -> None:
        """What a full report no longer lists has ended: what nobody took of it was for nothing."""
        for assist in self._head_starts.keys() - present:
            held = self._head_starts.pop(assist)
            if held.offered and not held.taken:
                self.wasted.inc()
            self.head_start_tokens.labels("wasted").inc(max(0, held.offered - held.taken))

    # -- transfers

    def _pulled(self, event: PullEnded) -> None:
        pull = self._pulls.pop(event.transfer, None)
        if pull is None:
            return
        missing = len(pull.span) - event.good_tokens
        if event.bytes_moved:
            self.bytes.labels("in").inc(event.bytes_moved)
            self.pull_s.observe(event.seconds)
            self.verification_failures.inc(missing > 0)
        self.pull_tokens.observe(event.good_tokens)
        self.recomputed.labels("transfer").inc(missing)
        self.transfers.labels("in", "partial" if missing and event.good_tokens else "failed" if missing else "good").inc()

    def _sent(self, event: SendEnded) -> None:
        tokens = self._sends.pop(event.transfer, 0)
        self.transfers.labels("out", "failed" if event.error else "good").inc()
        if not event.error:
            self.bytes.labels("out").inc(tokens * self._core.settings.kv_bytes_per_token)

    # -- on the output's thread

    def wrote(self, appends: Iterable[Append], statuses: Iterable[WriteStatus]) -> None:
        """The log took these: what it holds was generated, whatever the core had computed beyond a stop string."""
        generated = cached = 0
        for (_, _, entries, _), status in zip(appends, statuses, strict=True):
            if status is WriteStatus.DONE:
                for entry in entries:
                    generated += len(entry.token_ids)
                    cached += entry.cached_tokens
        self.generation_tokens.inc(generated)
        self.prefix_hits.inc(cached)


class CountingWriter:
    """The output stage's writer, with what it brought into logs counted."""

    def __init__(self, writer: LogWriter, metrics: WorkerMetrics) -> None:
        self._writer = writer
        self._metrics = metrics

    async def write(self, appends: Sequence[Append]) -> Sequence[WriteStatus]:
        statuses = await self._writer.write(appends)
        self._metrics.wrote(appends, statuses)
        return statuses

    async def close_many(self, ends: Sequence[tuple[RequestId, int, Phase]]) -> Sequence[WriteStatus]:
        return await self._writer.close_many(ends)

    async def disconnect(self) -> None:
        await self._writer.disconnect()
