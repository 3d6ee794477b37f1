"""Requests owned here: how each of their lives on this worker begins and ends."""

from __future__ import annotations

from shared.messages import Cancel, Returned, Revoke, WorkerState
from shared.types import FinishReason, Phase, RequestId
from workers.core_memory import CoreMemory
from workers.core_state import Owned
from workers.events import Assigned, Closed, DropOutput, Emit, EndRequest, OpenOutput, StopFound, Superseded, Unloadable
from workers.sequence import Sequence


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
        owned = Owned(spec, job.attempt, self._sequence_for(event), job.source)
        self.owned[job.request_id] = owned
        self.give_places()
        if self.state is not WorkerState.READY:
            self.hand_back(owned, "draining")
            return
        self.command(OpenOutput(spec, job.attempt, event.generated))
        self.story(job.request_id, "taken", attempt=job.attempt, generated=len(event.generated), computed=owned.sequence.num_computed)
        self._end_if_complete(owned)
        if not owned.ended:
            self.accept_source(owned)

    def _sequence_for(self, event: Assigned) -> Sequence:
        """A new sequence, or that of the head start which this very worker gave: then there is nothing to pull."""
        job, longest = event.job, self.settings.max_model_tokens
        local = job.source is not None and job.source.worker == self.settings.ref
        assist = self.assists.get(job.source.assist) if job.source is not None and local else None
        if assist is None or assist.sequence.spec.request_id != job.request_id:
            return Sequence(event.spec, event.generated, self.next_arrival(), max_tokens=longest)
        sequence = self.adopt(assist)
        sequence.adopt(event.spec, event.generated, self.next_arrival(), max_tokens=longest)
        return sequence

    def _end_if_complete(self, owned: Owned) -> None:
        """An earlier attempt left nothing to generate, or the prompt leaves no room to."""
        sequence = owned.sequence
        if sequence.num_tokens < sequence.max_tokens:
            return
        if not sequence.num_generated:
            self.end_early(owned, Phase.FAILED, f"the prompt leaves no room within {sequence.max_tokens} tokens")
            return
        self.command(Emit(owned.spec.request_id, owned.attempt, 0, sequence.num_generated, (), (), FinishReason.LENGTH))
        self.end_choice(owned)

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

    def end_choice(self, owned: Owned) -> None:
        """No further token: the blocks are free now, the request stays until its record is closed."""
        self.free(owned)
        owned.ended = True

    def end_early(self, owned: Owned, phase: Phase, error: str = "", code: str = "") -> None:
        self.end_choice(owned)
        self.command(EndRequest(owned.spec.request_id, owned.attempt, phase, error, code))

    def on_cancel(self, event: Cancel) -> None:
        """If an end is on its way to the log already, the log decides."""
        self.hear_scheduler()
        owned = self.owned.get(event.request_id)
        if owned and not owned.ended:
            self.end_early(owned, Phase.FAILED if event.error else Phase.CANCELLED, event.error, event.code)

    def on_stop_found(self, event: StopFound) -> None:
        """The output stage ends the choice at that index; what was computed beyond does not exist."""
        owned = self._current(event)
        if owned and not owned.ended:
            self.learn_output(event.index + 1)
            self.end_choice(owned)

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
        for owned in [owned for owned in self.owned.values() if not owned.ended and self.never_fits(owned.sequence)]:
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
        if owned.intake:
            self.abandon(owned.intake, releases_source=releases_source)
        elif owned.source and releases_source:
            self.release_source(owned.source)
        owned.intake = owned.source = None
        self.rewind(owned.sequence)
        self.clear_suspect(owned.sequence)

    def clear_suspect(self, sequence: Sequence) -> None:
        if sequence in self.suspects:
            self.suspects.remove(sequence)

    def forget(self, owned: Owned) -> None:
        """This attempt is over here: nothing of it is left but its fence."""
        del self.owned[owned.spec.request_id]
        self.raise_fence(owned.spec.request_id, owned.attempt + 1)
