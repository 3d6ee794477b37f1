"""For parity tests: every request is cut at exactly so many tokens, wherever its prompt and its low-end allow that."""

from __future__ import annotations

from scheduler.cost_model import assist_limit, can_hold, fits, usable_cut
from scheduler.policies.base import Assist, Take
from scheduler.policies.headstart import Headstart
from scheduler.scores import giver_of
from scheduler.view import ClusterView, WaitingView, WorkerView
from shared.types import whole_granules


class FixedCut(Headstart):
    """A request waits until its head start has come to the cut. It is assigned as it is when that can no longer happen."""

    name = "fixed-cut"
    waits_for_head_starts = True

    def take(self, view: ClusterView, worker: WorkerView) -> Take | None:
        for waiting in view.waiting.first(self._settings.look_ahead):
            if can_hold(worker, waiting.num_tokens) and self._ready(view, waiting):
                if fits(worker, waiting):
                    return Take(waiting.request_id, self.cut(view, worker, waiting))
                break
        return self._take_own(view, worker)

    def cut(self, view: ClusterView, worker: WorkerView, waiting: WaitingView) -> int:
        """Whatever it costs: the point is the cut, not the time."""
        giver = giver_of(view, waiting)
        if giver is None or giver.fingerprint != worker.fingerprint:
            return 0
        return min(self._goal(waiting), usable_cut(waiting))

    def assist(self, view: ClusterView, worker: WorkerView) -> Assist | None:
        for waiting in view.waiting.without_head_start():
            limit = assist_limit(worker, waiting.num_tokens, self._goal(waiting))
            if limit > 0 and not waiting.assists_lost:
                return Assist(waiting.request_id, limit)
        return None

    def _goal(self, waiting: WaitingView) -> int:
        return whole_granules(min(self._settings.cut_tokens, waiting.num_tokens - 1))

    def _ready(self, view: ClusterView, waiting: WaitingView) -> bool:
        goal, held = self._goal(waiting), waiting.head_start
        if goal == 0 or waiting.assists_lost or not view.roles.assistants:
            return True
        return held is not None and (held.stopped or held.offered >= min(goal, held.limit))
