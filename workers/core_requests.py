"""Requests owned here: how each of their lives on this worker begins and ends."""

from __future__ import annotations

from shared.messages import Assign, Cancel, Returned, Revoke, WorkerState
from shared.types import FinishReason, Phase, RequestId
from workers.core_memory import CoreMemory
from workers.core_state import Assist, Owned
from workers.events import Assigned, Closed, Delivered, DropOutput, Emit, EndRequest, OpenOutput, StopFound, Superseded, Unloadable
from workers.sequence import Sequence

NOTHING = Delivered()


class CoreRequests(CoreMemory):
    # -- begun

    def on_assigned(self, event: Assigned) -> None:
        """An older attempt of the same request gives way; a repeat, or an attempt that is over, is nothing new."""
        job = event.job
        self.account(job.seq)
        held = self.owned.get(job.request_id)
        if job.attempt < self.fence(job.request_id) or (held and job.attempt <= held.attempt):
            return
        if held:
            self.drop(held)
        self.returned.pop(job.request_id, None)
        self._own(event)

    def _own(self, event: Assigned) -> None:
        job, spec = event.job, event.spec
        owned = Owned(spec, job.attempt, self._choices_for(event), job.source)
        owned.generated = sum(len(choice.token_ids) for choice in event.delivered if choice.finish)
        self.owned[job.request_id] = owned
        self.give_places()
        if self.state is not WorkerState.READY:
            self.hand_back(owned, "draining")
            return
        self.command(OpenOutput(spec, job.attempt, event.delivered))
        generated = owned.num_tokens - len(spec.prompt)
        computed = max((sequence.num_computed for sequence in owned.choices), default=0)
        self.story(job.request_id, "taken", attempt=job.attempt, generated=generated, computed=computed)
        self._end_if_complete(owned)
        if not owned.ended and (cancel := self.called_off(job.request_id)):
            self._cancel(owned, cancel)
        if not owned.ended:
            self.accept_source(owned)
            self.fork(owned)

    def _choices_for(self, event: Assigned) -> list[Sequence]:
        """A sequence per choice that has not ended. The first is that of the head start which this very worker gave, if it did:
        then there is nothing to pull."""
        delivered = dict(enumerate(event.delivered))
        going = {choice: known.token_ids for choice in range(event.spec.sampling.n) if not (known := delivered.get(choice, NOTHING)).finish}
        assist = self._own_assist(event.job) if going else None
        return [self._choice_for(event, choice, known, None if at else assist) for at, (choice, known) in enumerate(going.items())]

    def _own_assist(self, job: Assign) -> Assist | None:
        local = job.source is not None and job.source.worker == self.settings.ref
        assist = self.assists.get(job.source.assist) if job.source is not None and local else None
        return assist if assist and assist.sequence.spec.request_id == job.request_id else None

    def _choice_for(self, event: Assigned, choice: int, known: tuple[int, ...], assist: Assist | None) -> Sequence:
        longest = self.settings.max_model_tokens
        if assist is None:
            return Sequence(event.spec, known, self.next_arrival(), max_tokens=longest, choice=choice)
        sequence = self.adopt(assist)
        sequence.adopt(event.spec, known, self.next_arrival(), max_tokens=longest, choice=choice)
        return sequence

    def _end_if_complete(self, owned: Owned) -> None:
        """An earlier attempt left nothing to generate, or the prompt leaves no room to."""
        if not owned.choices:
            self.end_early(owned, Phase.FINISHED)
        for sequence in [sequence for sequence in owned.choices if sequence.num_tokens >= sequence.max_tokens]:
            if not sequence.num_generated:
                self.end_early(owned, Phase.FAILED, f"the prompt leaves no room within {sequence.max_tokens} tokens")
                return
            position = (sequence.choice, sequence.num_generated)
            self.command(Emit(owned.spec.request_id, owned.attempt, *position, (), (), FinishReason.LENGTH))
            self.end_choice(owned, sequence)

    def on_unloadable(self, event: Unloadable) -> None:
        """There is nothing to run: an assignment is handed back, so that the scheduler finds out from the log what became of it."""
        job = event.job
        self.account(job.seq)
        if (attempt := getattr(job, "attempt", None)) and attempt >= self.fence(job.request_id) and job.request_id not in self.owned:
            reason = f"the log has ended: {event.ended}" if event.ended else "the log is missing"
            self.returned[job.request_id] = Returned(job.request_id, attempt, reason)
            self.raise_fence(job.request_id, attempt + 1)
        self.tell_soon()

    # -- ended

    def end_choice(self, owned: Owned, sequence: Sequence) -> None:
        """No further token of it: its blocks are free now. With the last choice the request ends, and stays until its record is closed."""
        if sequence is owned.sequence:
            self._let_go_of_source(owned)
        self.fork(owned)
        self._free_choice(sequence)
        owned.choices.remove(sequence)
        owned.generated += sequence.num_generated
        owned.ended = not owned.choices

    def end_early(self, owned: Owned, phase: Phase, error: str = "", code: str = "") -> None:
        """All choices at once."""
        self._let_go_of_source(owned)
        for sequence in list(owned.choices):
            self.end_choice(owned, sequence)
        owned.ended = True
        self.command(EndRequest(owned.spec.request_id, owned.attempt, phase, error, code))

    def on_cancel(self, event: Cancel) -> None:
        """If an end is on its way to the log already, the log decides."""
        self.hear_scheduler()
        owned = self.owned.get(event.request_id)
        if owned is None:
            self.call_off(event)
        elif not owned.ended:
            self._cancel(owned, event)

    def _cancel(self, owned: Owned, cancel: Cancel) -> None:
        self.end_early(owned, Phase.FAILED if cancel.error else Phase.CANCELLED, cancel.error, cancel.code)

    def on_stop_found(self, event: StopFound) -> None:
        """The output stage ends the choice at that index; what was computed beyond does not exist."""
        owned = self._current(event)
        if owned and (sequence := owned.choice(event.choice)):
            self.learn_output(event.index + 1)
            self.end_choice(owned, sequence)

    def on_closed(self, event: Closed) -> None:
        if owned := self._current(event):
            self.free(owned)
            self.forget(owned)
            self.note_closed(event.request_id)

    # -- lost to another attempt

    def on_superseded(self, event: Superseded) -> None:
        """The log knows a newer attempt than this one, so every older one is over too."""
        self._end_below(event.request_id, event.attempt + 1)

    def on_revoke(self, event: Revoke) -> None:
        self.hear_scheduler()
        returned = self.returned.get(event.request_id)
        if returned and returned.attempt < event.attempt:
            del self.returned[event.request_id]
        self._end_below(event.request_id, event.attempt)

    def _end_below(self, request_id: RequestId, attempt: int) -> None:
        self.raise_fence(request_id, attempt)
        owned = self.owned.get(request_id)
        if owned and owned.attempt < attempt:
            self.drop(owned)
            self.tell_soon()

    def hand_back(self, owned: Owned, reason: str) -> None:
        """Unfinished, and by this worker's own wish: another attempt goes on from what the log has."""
        self.drop(owned)
        self.returned[owned.spec.request_id] = Returned(owned.spec.request_id, owned.attempt, reason)
        self.story(owned.spec.request_id, "returned", attempt=owned.attempt, reason=reason)
        self.tell_soon()

    def hand_back_misfits(self) -> None:
        if self.blocks.blocks_for(self.settings.max_model_tokens) <= self.settings.total_blocks:
            return
        for owned in [owned for owned in self.owned.values() if any(map(self.never_fits, owned.choices))]:
            self.hand_back(owned, f"needs more than the {self.settings.total_blocks} blocks of this worker")

    def drop(self, owned: Owned) -> None:
        """Not a word more under this attempt. Its head start stays where it is: the next attempt may want to pull it."""
        self.free(owned, releases_source=False)
        self.forget(owned)
        self.command(DropOutput(owned.spec.request_id, owned.attempt))

    # -- the pieces

    def _current(self, event: StopFound | Closed) -> Owned | None:
        owned = self.owned.get(event.request_id)
        return owned if owned and owned.attempt == event.attempt else None

    def free(self, owned: Owned, *, releases_source: bool = True) -> None:
        """Everything this request holds here goes back; what is under way drains by itself."""
        self._let_go_of_source(owned, releases_source=releases_source)
        for sequence in owned.choices:
            self._free_choice(sequence)

    def _let_go_of_source(self, owned: Owned, *, releases_source: bool = True) -> None:
        if owned.intake:
            self.abandon(owned.intake, releases_source=releases_source)
        elif owned.source and releases_source:
            self.release_source(owned.source)
        owned.intake = owned.source = None

    def _free_choice(self, sequence: Sequence) -> None:
        self.rewind(sequence)
        self.clear_suspect(sequence)

    def clear_suspect(self, sequence: Sequence) -> None:
        if sequence in self.suspects:
            self.suspects.remove(sequence)

    def forget(self, owned: Owned) -> None:
        """This attempt is over here: nothing of it is left but its fence."""
        del self.owned[owned.spec.request_id]
        self.raise_fence(owned.spec.request_id, owned.attempt + 1)
