"""Requests that the leader learns of: new ones, those of an earlier leader, and records that were read again."""

from __future__ import annotations

from scheduler.events import Known
from scheduler.moves import Moves
from scheduler.requests import CANCELLED, LiveRequest, Stage, from_record, stage_of
from scheduler.state import State
from shared.fabric import Record
from shared.request import TERMINAL
from shared.types import MoveCause

NO_DEADLINE = float("inf")


class Adoption:
    def __init__(self, state: State, moves: Moves) -> None:
        self._state = state
        self._moves = moves

    def on_known(self, event: Known, now: float) -> None:
        record, request = event.record, self._state.requests.get(event.record.request_id)
        if record.phase in TERMINAL:
            if request is not None:
                self._moves.drop(request, now)
        elif request is None:
            self._adopt(record, event.age_s, now)
        elif request.stage is Stage.REREADING:
            self._readopt(request, record, now)
        elif record.cancel_asked:
            self._moves.end(request, CANCELLED, now)

    def _adopt(self, record: Record, age_s: float, now: float) -> None:
        state, submission = self._state, record.submission
        timeout_s = submission.timeout_s
        deadline = now + timeout_s - max(0.0, age_s) if timeout_s > 0 else NO_DEADLINE
        state.arrivals += 1
        state.prompt_rate.arrived(submission.num_prompt, age_s, now)
        request = from_record(record, state.lengths, state.arrivals, deadline)
        request.ttft_target_s = request.ttft_target_s or state.settings.ttft_target_s
        request.itl_target_s = request.itl_target_s or state.settings.itl_target_s
        state.requests[request.request_id] = request
        if timeout_s > 0:
            state.deadlines.set(request.request_id, deadline)
        if not submission.background:
            state.listeners.watch(request.request_id, record.listener, now)
        self._resume(request, now)

    def _readopt(self, request: LiveRequest, record: Record, now: float) -> None:
        """It keeps its place in the line, its listeners and its wished end."""
        self._state.writes.answered(request.request_id)
        request.enter(stage_of(record))
        request.learn(record)
        self._resume(request, now)

    def _resume(self, request: LiveRequest, now: float) -> None:
        """Goes on from where its record says that it stands."""
        if request.stage is Stage.WAITING:
            self._moves.wait(request, now)
        elif request.stage is Stage.FENCING:
            self._state.note(request.request_id, "adopted", phase=str(request.phase), attempt=request.attempt, epoch=self._state.epoch)
            self._moves.raise_fence(request, now)
        else:
            self._run_on(request, now)

    def _run_on(self, request: LiveRequest, now: float) -> None:
        """Somebody owns it: the owner has one liveness period to say so."""
        state = self._state
        state.note(
            request.request_id, "adopted", phase=str(request.phase), owner=str(request.owner), attempt=request.attempt, epoch=state.epoch
        )
        if request.owner is None or request.owner in state.fleet.gone or request.owner in state.fleet.silent:
            self._moves.move(request, MoveCause.CRASH if request.owner else MoveCause.LOST_JOB, now)
            return
        request.placed_at = now
        worker = state.fleet.expect(request.owner)
        state.liveness.expect(worker.ref, now)
        worker.running[request.request_id] = request
        state.fleet.refresh(worker)
        if request.ending is not None:
            self._moves.ask_owner_to_end(request, now)
