"""How a request leaves its place: to another owner, or for good. Each step is one write that can be repeated.

Owner lost:   BeginMove -> RaiseFence -> Requeue  -> waiting again under the next attempt
To be ended:  BeginMove -> RaiseFence -> WriteEnd -> Close     (without an owner: from RaiseFence on)
Ended before: BeginMove -> RaiseFence -> Close                 (the log decides)
"""

from __future__ import annotations

from scheduler.events import (
    BeginMove,
    Close,
    EndWritten,
    FenceRaised,
    MoveBegun,
    RaiseFence,
    RecordClosed,
    Requeue,
    Requeued,
    Reread,
    WriteEnd,
)
from scheduler.fleet import Worker
from scheduler.requests import CANCELLED, Ending, HeadStart, LiveRequest, Stage
from scheduler.state import NEVER, State
from shared.fabric import WriteStatus
from shared.messages import Cancel, ReleaseAssist, Revoke
from shared.types import MoveCause, Phase, RequestId

TOO_MANY_CRASHES = "too_many_crashes"
GONE = frozenset({WriteStatus.ENDED, WriteStatus.MISSING})


class Moves:
    def __init__(self, state: State) -> None:
        self._state = state

    # -- what others ask for

    def wait(self, request: LiveRequest, now: float) -> None:
        """It has no owner: into the line, or to its end if that is wanted."""
        self._offer_again(request)
        if request.ending is not None:
            self._fence(request, now)
        else:
            self._state.backlog.add(request)

    def _offer_again(self, request: LiveRequest) -> None:
        """Its head start, if the low-end still holds it, is good for the next owner."""
        held = request.head_start
        giver = self._state.worker(held.worker) if held is not None else None
        if held is not None and giver is not None:
            held.taken = False
            self._state.fleet.refresh(giver)

    def end(self, request: LiveRequest, ending: Ending, now: float) -> None:
        """Wants its end; the first reason stays. While a write is unanswered, the answer finds the wish."""
        if request.ending is not None:
            return
        request.ending = ending
        self._state.note(request.request_id, "ending", phase=str(ending.phase), code=ending.code, stage=str(request.stage))
        if request.stage is Stage.WAITING:
            self._state.backlog.remove(request)
            if request.head_start is not None:
                # Nobody will take it, whatever the log says of the end: its blocks need not wait for that.
                self.release(request.head_start, now)
            self._fence(request, now)
        elif request.stage is Stage.RUNNING:
            self.ask_owner_to_end(request, now)

    def ask_owner_to_end(self, request: LiveRequest, now: float) -> None:
        """An owner ends its requests itself; if it does not, the request is moved to its end."""
        worker = self._state.worker(request.owner)
        if worker is not None and request.ending is not None:
            self._state.tell(worker, Cancel(request.request_id, request.ending.error, request.ending.code), now)
        if request.request_id not in self._state.patience:
            self._state.patience.set(request.request_id, now + self._state.settings.cancel_grace_s)

    def move(self, request: LiveRequest, cause: MoveCause, now: float) -> None:
        """Takes it from its owner, who may be dead, deaf, or have given it back."""
        self.detach(request)
        request.cause = cause
        if cause is MoveCause.CRASH:
            self._count_crash(request)
        self._state.note(
            request.request_id, "moving", cause=str(cause), owner=str(request.owner), attempt=request.attempt, crashes=request.crashes
        )
        request.enter(Stage.MOVING)
        self._state.write(request, BeginMove(request.request_id, request.attempt), now)

    def _count_crash(self, request: LiveRequest) -> None:
        request.crashes += 1
        if request.crashes >= self._state.settings.max_crashes and request.ending is None:
            error = f"{request.crashes} workers crashed while they ran this request"
            request.ending = Ending(Phase.FAILED, error, TOO_MANY_CRASHES)

    def detach(self, request: LiveRequest) -> None:
        """Out of its worker's ledger, with what was promised for it."""
        self._state.patience.clear(request.request_id)
        worker = self._state.worker(request.owner)
        if worker is None:
            return
        worker.running.pop(request.request_id, None)
        worker.incoming.pop(request.request_id, None)
        if request.seq is not None:
            worker.unpromise(request.seq)
        self._state.fleet.refresh(worker)

    def drop(self, request: LiveRequest, now: float) -> None:
        """Its record is closed or gone: forget it."""
        if request.stage is Stage.WAITING and request in self._state.backlog:
            self._state.backlog.remove(request)
        self.detach(request)
        self._state.writes.answered(request.request_id)
        if request.head_start is not None:
            self.release(request.head_start, now)
        self._state.deadlines.clear(request.request_id)
        self._state.listeners.forget(request.request_id)
        self._state.reread_at.pop(request.request_id, None)
        del self._state.requests[request.request_id]

    def release(self, held: HeadStart, now: float) -> None:
        """Nobody will pull this head start."""
        held.released = True
        self._state.unlink(held)
        worker = self._state.fleet.get(held.worker)
        if worker is not None:
            self._state.tell(worker, ReleaseAssist(held.assist), now)

    def revoke(self, worker: Worker, request_id: RequestId, attempt: int, now: float) -> None:
        self._state.tell(worker, Revoke(request_id, attempt), now)

    # -- answers

    def on_move_begun(self, event: MoveBegun, now: float) -> None:
        request = self._waiting_for(event.request_id, Stage.MOVING)
        if request is None or request.attempt != event.attempt:
            return
        if event.status is WriteStatus.DONE:
            self._fence(request, now)
        else:
            self.refused(request, event.status, now)

    def on_fence_raised(self, event: FenceRaised, now: float) -> None:
        request = self._waiting_for(event.request_id, Stage.FENCING)
        if request is None or request.next_attempt != event.attempt:
            return
        answer = event.answer
        if answer.ended is not None or answer.status is WriteStatus.ENDED:
            self._close(request, answer.ended or Phase.FAILED, answer.code, now)
        elif answer.status is WriteStatus.MISSING:
            self._state.note(request.request_id, "log_lost", attempt=request.attempt)
            self._close(request, Phase.FAILED, request.ending.code if request.ending else "", now)
        elif answer.status is WriteStatus.DONE:
            self._fenced(request, answer.next_index, now)
        else:
            self.reread(request, now)

    def _fenced(self, request: LiveRequest, next_index: int, now: float) -> None:
        """Nobody writes its log any more: hand it over, or end it."""
        worker = self._state.worker(request.owner)
        if worker is not None:
            self.revoke(worker, request.request_id, request.next_attempt, now)
        if request.ending is not None:
            self._write_end(request, request.ending, now)
            return
        request.num_tokens = request.submission.num_prompt + next_index
        request.enter(Stage.REQUEUING)
        self._state.write(request, Requeue(request.request_id, request.next_attempt, request.num_tokens, request.cause), now)

    def on_requeued(self, event: Requeued, now: float) -> None:
        request = self._waiting_for(event.request_id, Stage.REQUEUING)
        if request is None or request.next_attempt != event.attempt:
            return
        if event.status is WriteStatus.CANCELLED:
            request.ending = request.ending or CANCELLED
            self._write_end(request, request.ending, now)
        elif event.status is not WriteStatus.DONE:
            self.refused(request, event.status, now)
        else:
            self._requeued(request, event, now)

    def _requeued(self, request: LiveRequest, event: Requeued, now: float) -> None:
        self._state.writes.answered(request.request_id)
        request.attempt, request.num_tokens = event.attempt, event.num_tokens
        request.owner, request.seq, request.source, request.computed = None, None, None, -1
        request.become(Phase.QUEUED)
        request.enter(Stage.WAITING)
        self._state.note(request.request_id, "requeued", attempt=request.attempt, tokens=request.num_tokens, cause=str(request.cause))
        self.wait(request, now)

    def on_end_written(self, event: EndWritten, now: float) -> None:
        request = self._waiting_for(event.request_id, Stage.ENDING)
        if request is None or request.next_attempt != event.attempt or request.ending is None:
            return
        if event.status is WriteStatus.DONE:
            self._close(request, request.ending.phase, request.ending.code, now)
        elif event.status is WriteStatus.ENDED:
            self._fence(request, now)
        elif event.status is WriteStatus.MISSING:
            self._close(request, Phase.FAILED, request.ending.code, now)
        else:
            self.reread(request, now)

    def on_record_closed(self, event: RecordClosed, now: float) -> None:
        """A closed or missing record is so for good, whoever asked."""
        request = self._state.requests.get(event.request_id)
        if request is None:
            return
        if event.status is WriteStatus.DONE or event.status in GONE:
            self._state.note(request.request_id, "closed", phase=str(request.phase), status=str(event.status))
            self.drop(request, now)
        elif request.stage is Stage.CLOSING:
            self.reread(request, now)

    def refused(self, request: LiveRequest, status: WriteStatus, now: float) -> None:
        """A write did not take effect: the record is not what we thought."""
        self._state.note(request.request_id, "refused", stage=str(request.stage), status=str(status))
        if status in GONE:
            self.drop(request, now)
        elif status is WriteStatus.CANCELLED:
            request.ending = request.ending or CANCELLED
            self._fence(request, now)
        else:
            self.reread(request, now)

    def reread(self, request: LiveRequest, now: float) -> None:
        """Asks what the record says; a second time only after `retry_s`, so that a disagreement does not spin."""
        request.enter(Stage.REREADING)
        command = Reread(request.request_id)
        last = self._state.reread_at.get(request.request_id, NEVER)
        if now - last >= self._state.settings.retry_s:
            self._state.reread_at[request.request_id] = now
            self._state.write(request, command, now)
        else:
            self._state.writes.send(request.request_id, command, now)

    # -- steps

    def _waiting_for(self, request_id: RequestId, stage: Stage) -> LiveRequest | None:
        request = self._state.requests.get(request_id)
        return request if request is not None and request.stage is stage else None

    def _fence(self, request: LiveRequest, now: float) -> None:
        request.enter(Stage.FENCING)
        self.raise_fence(request, now)

    def raise_fence(self, request: LiveRequest, now: float) -> None:
        """For a request that is fencing already: found so by a new leader."""
        request.become(Phase.MOVING)
        self._state.write(request, RaiseFence(request.request_id, request.next_attempt), now)

    def _write_end(self, request: LiveRequest, ending: Ending, now: float) -> None:
        request.enter(Stage.ENDING)
        self._state.write(request, WriteEnd(request.request_id, request.next_attempt, ending.phase, ending.error, ending.code), now)

    def _close(self, request: LiveRequest, phase: Phase, code: str, now: float) -> None:
        """`code` is the end's in the log, whoever wrote it: a leader that finds an end of another's keeps its dead letter, too."""
        request.enter(Stage.CLOSING)
        request.become(phase)
        dead = phase is Phase.FAILED and code == TOO_MANY_CRASHES
        self._state.write(request, Close(request.request_id, request.next_attempt, phase, dead), now)
