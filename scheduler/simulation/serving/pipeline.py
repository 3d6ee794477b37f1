"""Pipeline parallelism with chunked prefill, as a baseline in the simulator alone: it is an engine of its own, not a placement.

The model's layers are cut into stages (`stages.py`). As many micro-batches as there are stages go round: each is planned like a
step of a worker (decodes first, then chunks of prefill, within the token budget), passes the stages in order, and is planned
anew when its tokens have come back. Activations cross the link. Where an engine could do better or worse, this one does
better: all micro-batches share one KV memory, and the engine's own time per step is paid once, not once per stage.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import partial

from scheduler.simulation.serving.agenda import Agenda
from scheduler.simulation.serving.hardware import WEIGHT_BYTES
from scheduler.simulation.serving.links import Links
from scheduler.simulation.serving.plan import BLOCK_TOKENS
from scheduler.simulation.serving.records import Outcome, RequestRecord, WorkerRecord
from scheduler.simulation.serving.stages import cut_into_stages
from scheduler.simulation.serving.trace import clipped
from scheduler.simulation.serving.worker_node import OUTPUT_S
from scheduler.simulation.serving.world import LIMIT_S, Serving
from shared.profile import StepShape

NAME = "pipeline-parallel"
WATERMARK = 0.99
"""Share of the KV memory up to which new requests start."""


@dataclass(eq=False, slots=True)
class _Running:
    record: RequestRecord
    known: int
    """Prompt and generated tokens."""
    computed: int = 0
    held: int = 0
    """Tokens of KV memory that are its own: of all known ones when it begins, of one more with each decode."""


@dataclass(eq=False, slots=True)
class _MicroBatch:
    running: list[_Running] = field(default_factory=list)
    rows: list[tuple[_Running, int]] = field(default_factory=list)
    """What its step computes: a request and how many of its tokens."""
    under_way: bool = False


class PipelineWorld:
    """Runs a trace like `ServingWorld`. Raises `ConfigError` if the model cannot be cut over these workers."""

    def __init__(self, serving: Serving) -> None:
        self.plan = serving.plan
        self.agenda = Agenda()
        self.links = Links(self.plan.link_s, self.plan.link_bytes_per_s)
        self.stages = cut_into_stages(self.plan)
        self.capacity = min(stage.kv_tokens for stage in self.stages)
        """Tokens: every stage keeps its layers' KV of every token."""
        self.requests = [RequestRecord(arrival) for arrival in clipped(serving.arrivals, self.plan.longest_tokens)]
        self.workers = [WorkerRecord(stage.name, total_blocks=stage.kv_tokens // BLOCK_TOKENS) for stage in self.stages]
        self._most = min(worker.max_sequences for worker in self.plan.workers)
        self._waiting: deque[_Running] = deque()
        self._batches = [_MicroBatch() for _ in self.stages]
        self._free_at = [0.0] * len(self.stages)
        self._used, self._noted_at, self._left, self._started = 0, 0.0, len(self.requests), 0

    def run(self) -> None:
        for record in self.requests:
            self.agenda.at(record.arrival.at_s + 2 * self.plan.message_s, partial(self._arrive, record))
        if not self.agenda.play(lambda: not self._left, LIMIT_S):
            raise AssertionError(f"{self._left} requests never end: {len(self._waiting)} waiting, {self._used} of {self.capacity} tokens")

    def outcome(self) -> Outcome:
        return Outcome(self.plan, self.requests, self.agenda.now, self.workers, self.links.bytes_moved, self._started)

    def _arrive(self, record: RequestRecord) -> None:
        self._waiting.append(_Running(record, record.arrival.prompt_tokens))
        self._start_idle()

    def _start_idle(self) -> None:
        for batch in self._batches:
            if not batch.under_way:
                self._start(batch)

    # -- a step

    def _start(self, batch: _MicroBatch) -> None:
        self._note_memory()
        batch.rows = self._rows(batch)
        if not batch.rows:
            return
        batch.under_way = True
        self._enter(batch, _shape(batch.rows), 0)

    def _rows(self, batch: _MicroBatch) -> list[tuple[_Running, int]]:
        """Decodes, then prefills, then new requests, in order of arrival, within the token budget and the KV memory."""
        decodes = [one for one in batch.running if one.known - one.computed == 1][: self.plan.token_budget]
        self._keep_room(batch, decodes)
        rows = [(one, 1) for one in decodes]
        left = self.plan.token_budget - len(rows)
        for one in [one for one in batch.running if one.known - one.computed > 1]:
            if left > 0:
                rows.append((one, min(left, one.known - one.computed)))
                left -= rows[-1][1]
        while left > 0 and self._may_begin(batch):
            one = self._begin(batch)
            rows.append((one, min(left, one.known)))
            left -= rows[-1][1]
        return rows

    def _keep_room(self, batch: _MicroBatch, decodes: list[_Running]) -> None:
        """Every decode takes one more token; the newest request makes room, and is computed anew later."""
        while self._used + len(decodes) > self.capacity and len(batch.running) > 1:
            victim = batch.running.pop()
            self._used -= victim.held
            victim.computed = victim.held = 0
            self._waiting.appendleft(victim)
            self.workers[0].preemptions += 1
            if victim in decodes:
                decodes.remove(victim)
        for one in [one for one in decodes if one.held < one.known]:
            one.held += 1
            self._used += 1

    def _may_begin(self, batch: _MicroBatch) -> bool:
        if not self._waiting or len(batch.running) >= self._most:
            return False
        return self._used + self._waiting[0].known + 1 <= self.capacity * WATERMARK

    def _begin(self, batch: _MicroBatch) -> _Running:
        one = self._waiting.popleft()
        one.held = one.known
        self._used += one.held
        self._started += 1
        one.record.owner = NAME
        batch.running.append(one)
        return one

    # -- through the stages

    def _enter(self, batch: _MicroBatch, shape: StepShape, at: int) -> None:
        """A stage serves one micro-batch at a time, in the order in which they come."""
        seconds, record = self.stages[at].step_seconds(shape), self.workers[at]
        self._free_at[at] = max(self.agenda.now, self._free_at[at]) + seconds
        record.busy_s += seconds
        record.steps += 1
        record.prefill_tokens += shape.prefill_tokens
        record.decode_tokens += shape.decodes
        self.agenda.at(self._free_at[at], partial(self._leave, batch, shape, at))

    def _leave(self, batch: _MicroBatch, shape: StepShape, at: int) -> None:
        if at + 1 == len(self.stages):
            self.agenda.after(self.plan.link_s, partial(self._done, batch))
            return
        nbytes = (shape.prefill_tokens + shape.decodes) * self.plan.model.hidden * WEIGHT_BYTES
        self.links.send(self.agenda.now, at, at + 1, nbytes, lambda when: self.agenda.at(when, partial(self._enter, batch, shape, at + 1)))

    def _done(self, batch: _MicroBatch) -> None:
        """Sampled tokens are back where steps are planned."""
        self._note_memory()
        batch.under_way = False
        for one, count in batch.rows:
            one.computed += count
            if one.computed == one.known:
                self._sampled(batch, one)
        self._start_idle()

    def _sampled(self, batch: _MicroBatch, one: _Running) -> None:
        one.known += 1
        one.record.token(self.agenda.now + OUTPUT_S, 1)
        if one.record.tokens == one.record.arrival.output_tokens:
            batch.running.remove(one)
            self._used -= one.held
            self.agenda.after(OUTPUT_S, partial(self._ended, one))

    def _ended(self, one: _Running) -> None:
        one.record.ended_at = self.agenda.now
        self._left -= 1

    def _note_memory(self) -> None:
        for record in self.workers:
            record.kv_used += self._used / BLOCK_TOKENS * (self.agenda.now - self._noted_at)
        self._noted_at = self.agenda.now


def _shape(rows: list[tuple[_Running, int]]) -> StepShape:
    """As for any step: one token behind others is a decode."""
    decodes = [one.computed + 1 for one, count in rows if count == 1 and one.computed]
    chunks = [(one.computed, count) for one, count in rows if not (count == 1 and one.computed)]
    pairs = sum(count * start + count * (count + 1) // 2 for start, count in chunks)
    return StepShape(sum(count for _, count in chunks), pairs, len(decodes), sum(decodes))
