"""Steps: put together, launched one or two deep, collected; and what a failed one costs."""

from __future__ import annotations

from shared.messages import WorkerState
from shared.types import FinishReason, Phase, RequestId
from workers.batching import PlannedStep, Row, StepBuilder, step_order
from workers.core_requests import CoreRequests
from workers.core_state import REMEMBERED, Owned
from workers.events import Emit, Launch, StepDone, StepFailed
from workers.sequence import Sequence
from workers.settings import WorkerSettings


class CoreSteps(CoreRequests):
    def __init__(self, settings: WorkerSettings) -> None:
        super().__init__(settings)
        self._steps = 0
        self._results: dict[int, StepDone | StepFailed] = {}
        self._failed: dict[RequestId, None] = {}
        """Requests that failed alone here and were handed back once."""
        self._broken_by: set[RequestId] = set()
        """Different requests that failed alone since the last good step."""

    # -- put together

    def advance(self) -> None:
        """Starts what can start: pulls, then steps up to the pipeline's depth."""
        self._preempted.clear()
        self.hand_back_misfits()
        self._fork_all()
        for owned in [owned for owned in self.owned.values() if owned.source]:
            self.skip_covered_pull(owned)
            if owned.source and self.room_for_pull(owned):
                self.start_pull(owned)
        while len(self.running) < self._depth() and (step := self._next_step()):
            self._launch(step)

    def _fork_all(self) -> None:
        """Choices that were preempted take the prompt back from one that kept it."""
        for owned in self.owned.values():
            if len(owned.choices) > 1 and owned.runnable:
                self.fork(owned)

    def _depth(self) -> int:
        """A suspect is computed alone, and nothing runs beside it."""
        return 1 if self.suspects else self.settings.depth

    def _next_step(self) -> PlannedStep | None:
        self.planning = self._new_builder()
        if not self._plan_suspect(self.planning):
            self._plan_batch(self.planning)
        step, self.planning = self.planning.build(), None
        return step

    def _new_builder(self) -> StepBuilder:
        settings = self.settings
        return StepBuilder(
            self._steps + 1,
            block_tokens=settings.block_tokens,
            token_budget=settings.token_budget,
            max_rows=settings.max_sequences,
            previous=self.running[-1] if self.running else None,
        )

    def _plan_suspect(self, builder: StepBuilder) -> bool:
        """The first suspect that has room, alone."""
        self._forget_proven()
        return any(self._add(builder, sequence) for sequence in list(self.suspects))

    def _plan_batch(self, builder: StepBuilder) -> None:
        for sequence in step_order(self.startable(), self.advancing()):
            if builder.full:
                break
            if self._just_decodes(sequence):
                builder.add(sequence, 1)
            elif not (self.suspects and sequence in self.suspects):
                self._add(builder, sequence)

    def _just_decodes(self, sequence: Sequence) -> bool:
        """The common case, and the short way: one token, and room for it in the blocks that are there."""
        if sequence.limit is not None or self.suspects or self._preempted:
            return False
        ahead = sequence.num_tokens + sequence.pending - sequence.num_planned
        room = len(sequence.blocks) * self.settings.block_tokens > sequence.num_planned
        return ahead == 1 and room and sequence.num_planned + 1 < sequence.max_tokens

    def _add(self, builder: StepBuilder, sequence: Sequence) -> bool:
        """As many of its tokens as budget and memory have room for; one that lost its blocks in this round waits."""
        left = sequence.left
        if not left or (self._preempted and sequence in self._preempted) or not self._is_here(sequence):
            return False
        if not sequence.blocks:
            if self.start_from_cache(sequence) and sequence.limit is not None:
                self.raise_offer(sequence)
            left = sequence.left
        count = self.tokens_with_room(sequence, min(left, builder.left))
        if count:
            builder.add(sequence, count)
        return bool(count)

    def _is_here(self, sequence: Sequence) -> bool:
        """A head start may be dropped while the step is put together."""
        return sequence.limit is None or any(assist.sequence is sequence for assist in self.assists.values())

    def _launch(self, step: PlannedStep) -> None:
        self._steps = step.step
        self.running.append(step)
        self.blocks.begin_write(step.written)
        self.command(Launch(step.plan))

    # -- collected

    def on_step_result(self, event: StepDone | StepFailed) -> None:
        """Results count in the order of launch: one that overtakes (a launch refused at once) waits for its turn; a repeat is nobody's."""
        if any(step.step == event.step for step in self.running):
            self._results[event.step] = event
        while self.running and (result := self._results.pop(self.running[0].step, None)):
            self._collect(self.running.popleft(), result)

    def _collect(self, step: PlannedStep, result: StepDone | StepFailed) -> None:
        self.blocks.end_write(step.written)
        rows = [row for row in step.rows if row.run == row.sequence.run]
        if isinstance(result, StepFailed):
            for row in rows:
                self._suspect_row(row, result.error)
            return
        self._broken_by.clear()
        self.note_step(step.plan, result.seconds)
        sealed = self.settings.block_tokens if self.settings.prefix_cache else 1 << 62
        for row in rows:
            self._advance_row(row, result, sealed)

    def _advance_row(self, row: Row, event: StepDone, sealed: int) -> None:
        """`sealed`: tokens of a block that is named once it is full."""
        sequence = row.sequence
        sequence.num_computed += row.count
        if self.suspects:
            self.clear_suspect(sequence)
        if sequence.limit is not None:
            self.raise_offer(sequence)
        if sequence.num_computed >= (sequence.num_sealed + 1) * sealed:
            self.seal(sequence)
        if row.sample >= 0:
            owned = self.owned[sequence.spec.request_id]
            if len(owned.choices) > 1:
                self.fork(owned)
            self._accept(owned, sequence, event, row.sample)

    def _accept(self, owned: Owned, sequence: Sequence, event: StepDone, sample: int) -> None:
        """A sampled token is final: it goes to the log, and may be the choice's last."""
        spec, index, token = owned.spec, sequence.num_tokens - sequence.num_prompt, event.token_ids[sample]
        sequence.append(token)
        finish = self._finish_of(sequence, token)
        top = tuple(event.top_logprobs[sample : sample + 1]) if spec.sampling.top_logprobs else ()
        cached = 0 if owned.told_cached else owned.take_cached()
        ids, logprobs = (token,), (event.logprobs[sample],)
        self._commands.append(Emit(spec.request_id, owned.attempt, sequence.choice, index, ids, logprobs, finish, top, cached))
        if finish:
            self.learn_output(sequence.num_generated)
            self.end_choice(owned, sequence)

    def _finish_of(self, sequence: Sequence, token: int) -> FinishReason | None:
        if token in self.settings.eos_token_ids and not sequence.spec.sampling.ignore_eos:
            return FinishReason.STOP
        return FinishReason.LENGTH if sequence.num_tokens >= sequence.max_tokens else None

    # -- failed

    def _suspect_row(self, row: Row, error: str) -> None:
        """Nobody fails at once: each sequence is computed alone next, and the one that fails alone is handed back."""
        sequence = row.sequence
        if sequence in self.suspects:
            self.fail_alone(sequence, error)
        else:
            sequence.rewind(sequence.num_computed)
            self.suspects.append(sequence)

    def _forget_proven(self) -> None:
        """Suspects that have nothing to compute any more have nothing to prove."""
        for sequence in [sequence for sequence in self.suspects if not self._can_prove(sequence)]:
            self.suspects.remove(sequence)

    def _can_prove(self, sequence: Sequence) -> bool:
        owned = self.owned.get(sequence.spec.request_id)
        mine = owned is not None and sequence in owned.choices and owned.runnable
        return bool(sequence.left) and (mine or sequence in self.advancing())

    def fail_alone(self, sequence: Sequence, error: str) -> None:
        self.clear_suspect(sequence)
        request_id = sequence.spec.request_id
        self.blocks.distrust(sequence.blocks)
        assist = self._assist_of(sequence)
        if assist:
            sequence.rewind(sequence.num_computed)
            self.drop_assist(assist, f"failed: {error}")
        else:
            self._fail_owned(self.owned[request_id], error)
        self._broken_by.add(request_id)
        if len(self._broken_by) >= self.settings.max_failures:
            self.break_down(error)

    def _fail_owned(self, owned: Owned, error: str) -> None:
        """Handed back once, so that another worker tries; a request that comes back and fails again is at fault."""
        if owned.spec.request_id in self._failed:
            self.end_early(owned, Phase.FAILED, error)
        else:
            self._failed[owned.spec.request_id] = None
            while len(self._failed) > REMEMBERED:
                del self._failed[next(iter(self._failed))]
            self.hand_back(owned, f"failed: {error}")

    def break_down(self, error: str) -> None:
        """Nothing works here: hand everything back and take nothing, instead of failing one request after another."""
        self.state = WorkerState.DRAINING
        self.drain_at = self.now
        self.broken = error
        self.tell_soon()
