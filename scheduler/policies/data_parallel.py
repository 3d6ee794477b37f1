"""Data parallel: every worker serves whole requests with chunked prefill, and who serves which is fixed at arrival."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter, deque

from scheduler.cost_model import can_hold, fits, queued_seconds, request_rate
from scheduler.policies.base import Assist, Take
from scheduler.settings import SchedulerSettings
from scheduler.view import ClusterView, Roles, WaitingView, WorkerView
from shared.types import RequestId, WorkerRef


class DataParallel:
    """Each worker has a queue of its own. `choose` says whose queue a request joins."""

    name = "data-parallel"
    waits_for_head_starts = True

    def __init__(self, settings: SchedulerSettings) -> None:
        self._queues: dict[WorkerRef, deque[RequestId]] = {}

    @abstractmethod
    def choose(self, able: list[WorkerView], waiting: WaitingView) -> WorkerView:
        """One of `able`: workers, in the order of their names, that could hold this request."""

    def meet(self, view: ClusterView, waiting: WaitingView) -> None:
        able = [worker for ref, worker in sorted(view.workers.items()) if worker.ready and can_hold(worker, waiting.num_tokens)]
        if able:
            self._queues.setdefault(self.choose(able, waiting).ref, deque()).append(waiting.request_id)

    def classify(self, view: ClusterView) -> Roles:
        """Whoever is there owns. The queue of one that is gone is dealt out again."""
        owners = frozenset(worker.ref for worker in view.workers.values() if worker.ready)
        for ref in [ref for ref in self._queues if ref not in owners] if owners else []:
            for request_id in self._queues.pop(ref):
                if (waiting := view.waiting.get(request_id)) is not None:
                    self.meet(view, waiting)
        return Roles(owners)

    def take(self, view: ClusterView, worker: WorkerView) -> Take | None:
        queue = self._queues.get(worker.ref, deque())
        while queue:
            waiting = view.waiting.get(queue[0])
            if waiting is None:
                queue.popleft()
            elif fits(worker, waiting):
                return Take(queue.popleft())
            else:
                break
        return None

    def assist(self, view: ClusterView, worker: WorkerView) -> Assist | None:
        return None


class RoundRobin(DataParallel):
    name = "data-parallel-round-robin"

    def __init__(self, settings: SchedulerSettings) -> None:
        super().__init__(settings)
        self._dealt = 0

    def choose(self, able: list[WorkerView], waiting: WaitingView) -> WorkerView:
        self._dealt += 1
        return able[(self._dealt - 1) % len(able)]


class WeightedRoundRobin(DataParallel):
    """In proportion to profiled throughput: whoever is furthest behind its share is next."""

    name = "data-parallel-weighted"

    def __init__(self, settings: SchedulerSettings) -> None:
        super().__init__(settings)
        self._given: Counter[WorkerRef] = Counter()

    def choose(self, able: list[WorkerView], waiting: WaitingView) -> WorkerView:
        chosen = min(able, key=lambda worker: ((self._given[worker.ref] + 1) / request_rate(worker, waiting), worker.ref))
        self._given[chosen.ref] += 1
        return chosen


class LeastWork(DataParallel):
    """The shortest queue in seconds at the worker's own speed, this request included."""

    name = "data-parallel-least-work"

    def choose(self, able: list[WorkerView], waiting: WaitingView) -> WorkerView:
        return min(able, key=lambda worker: (self._seconds(worker, waiting), worker.ref))

    def _seconds(self, worker: WorkerView, waiting: WaitingView) -> float:
        queued = len(self._queues.get(worker.ref, ()))
        own = 1 / request_rate(worker, waiting)
        running = worker.owned * own / 2  # half of each is done, on average
        return queued_seconds(worker) + running + (queued + 1) * own
