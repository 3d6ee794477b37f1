"""Who is there: workers come, leave, fall silent; who owns and who assists follows from that."""

from __future__ import annotations

from scheduler.events import Forget, Joined, Left
from scheduler.fleet import Worker
from scheduler.moves import Moves
from scheduler.policies.base import Policy
from scheduler.state import State
from scheduler.view import ClusterView
from shared.messages import WorkerInfo
from shared.types import MoveCause, WorkerRef


class Members:
    def __init__(self, state: State, policy: Policy, moves: Moves) -> None:
        self._state = state
        self._policy = policy
        self._moves = moves

    def on_joined(self, event: Joined, now: float) -> None:
        worker = self._state.fleet.get(event.info.ref)
        if event.info.ref in self._state.fleet.gone or (worker is not None and worker.info is not None):
            return
        self.join(event.info, now)

    def join(self, info: WorkerInfo, now: float) -> None:
        """Every other incarnation of the same worker is dead from here on."""
        fleet = self._state.fleet
        for older in [worker for worker in fleet if worker.ref.worker == info.ref.worker and worker.ref != info.ref]:
            fleet.gone.add(older.ref)
            self._declare_dead(older, now)
        for ref in [ref for ref in fleet.silent if ref.worker == info.ref.worker and ref != info.ref]:
            del fleet.silent[ref]
            fleet.gone.add(ref)
        fleet.refresh(fleet.join(info))
        self._state.liveness.expect(info.ref, now)
        self.reclassify()

    def on_left(self, event: Left, now: float) -> None:
        """It gave everything back before: what it still owns here is handed on, no crash counted."""
        self._state.fleet.gone.add(event.ref)
        self._state.fleet.silent.pop(event.ref, None)
        worker = self._state.fleet.get(event.ref)
        if worker is not None:
            self._lose(worker, MoveCause.RETURNED, now)
            self.reclassify()

    def judge(self, now: float) -> None:
        """Declares dead who has been silent for a whole period."""
        silent = [worker for ref in self._state.liveness.silent(now) if (worker := self._state.fleet.get(ref)) is not None]
        for worker in silent:
            if worker.info is not None:
                self._state.fleet.silent[worker.ref] = (worker.info, worker.counter)
            self._declare_dead(worker, now)
        if silent or self._state.roles_stale:
            self.reclassify()

    def returns(self, ref: WorkerRef, counter: int, now: float) -> Worker | None:
        """An incarnation that was declared dead has said something new: it lives, but owns nothing any more."""
        info, last = self._state.fleet.silent.get(ref, (None, 0))
        if info is None or counter <= last:
            return None
        self.join(info, now)
        return self._state.fleet.get(ref)

    def reclassify(self) -> None:
        """Only whose role changed changes place, so that a thousand joins cost a thousand times a thousand glances, no more."""
        fleet = self._state.fleet
        fleet.settle()
        fleet.take_roles(self._policy.classify(ClusterView(fleet.views, self._state.backlog, fleet.roles)))
        self._state.backlog.unshelve(fleet.largest)
        self._state.roles_stale = False

    def _declare_dead(self, worker: Worker, now: float) -> None:
        self._lose(worker, MoveCause.CRASH, now)
        self._state.out.append(Forget(worker.ref))

    def _lose(self, worker: Worker, cause: MoveCause, now: float) -> None:
        """Its requests move; one whose placement is unanswered may never have reached it, so no crash is counted for that."""
        for held in list(worker.head_starts.values()):
            self._state.lose_head_start(held, "worker gone")
        self._state.fleet.remove(worker)
        self._state.prefixes.forget(worker.ref)
        self._state.liveness.forget(worker.ref)
        for request in list(worker.running.values()):
            self._moves.move(request, cause, now)
        for request in list(worker.incoming.values()):
            self._moves.move(request, MoveCause.LOST_JOB, now)
