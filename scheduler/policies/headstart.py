"""Take when free: low-ends advance waiting prompts, a high-end takes the best one as soon as it has room. The cut is where it was taken.

In a rough model of A100 + A10 / A30 on the Azure trace it reached 0.98-0.99 of the fluid bound, against 0.87-0.90 for a split
that is fixed at dispatch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from scheduler.cost_model import assist_limit, can_hold, fits, own_seconds, prefill_seconds, pull_seconds, request_rate, usable_cut
from scheduler.policies.base import Assist, Take
from scheduler.settings import SchedulerSettings
from scheduler.view import ClusterView, Roles, WaitingView, WorkerView

MAX_HOLDERS = 8
"""Workers that hold a prompt's beginning and are compared, the longest first."""


class Headstart:
    name = "headstart"
    waits_for_head_starts = False

    def __init__(self, settings: SchedulerSettings) -> None:
        self._settings = settings

    def meet(self, view: ClusterView, waiting: WaitingView) -> None:
        """Nothing is decided before somebody is free."""

    def classify(self, view: ClusterView) -> Roles:
        """Of the workers that can hand over to one another, those near the fastest own. The fastest always does.

        Where operators have said who is low-end, the others are compared; among low-ends alone the fastest owns all the same.
        """
        ready = [worker for worker in view.workers.values() if worker.ready]
        fastest: dict[bytes, tuple[bool, float]] = {}
        for worker in ready:
            fastest[worker.fingerprint] = max(_rank(worker), fastest.get(worker.fingerprint, (False, 0.0)))
        owners = frozenset(w.ref for w in ready if self._owns(w, fastest[w.fingerprint]))
        return Roles(owners, frozenset(w.ref for w in ready) - owners)

    def _owns(self, worker: WorkerView, fastest: tuple[bool, float]) -> bool:
        may_own, speed = fastest
        near = worker.speed >= self._settings.low_end_ratio * speed
        return worker.role == "high" or (near and (worker.role != "low" or not may_own))

    def take(self, view: ClusterView, worker: WorkerView) -> Take | None:
        """The first in the line that this worker could ever hold, and nobody behind it: large prompts do not starve.

        But one whose head start grows this very moment is left to its low-end as long as one of the next is not: what a chunk that is
        being computed has cost would be lost.
        """
        growing: WaitingView | None = None
        for looked, waiting in enumerate(view.waiting.first(self._settings.look_ahead)):
            if growing is not None and looked > self._settings.leave_growing:
                break
            if fits(worker, waiting):
                if not _grows(view, waiting):
                    return self._best_place(view, worker, waiting)
                growing = growing or waiting
            elif can_hold(worker, waiting.num_tokens):
                break
        if growing is not None:
            return self._best_place(view, worker, growing)
        return self._take_own(view, worker)

    def _best_place(self, view: ClusterView, asked: WorkerView, waiting: WaitingView) -> Take:
        """Where it costs least: at the worker that was asked, the best one for any prompt, or at a free one that holds its beginning."""
        holders = list(islice(self._free_holders(view, asked, waiting), MAX_HOLDERS))
        if not holders:
            return Take(waiting.request_id, self.cut(view, asked, waiting))
        best = min([asked, *holders], key=lambda worker: self._cost(view, worker, waiting))
        return Take(waiting.request_id, self.cut(view, best, waiting), None if best is asked else best.ref)

    def _cost(self, view: ClusterView, worker: WorkerView, waiting: WaitingView) -> float:
        cut, cached = self.cut(view, worker, waiting), view.prefixes.cached_tokens(worker.ref, waiting.prefix, waiting.num_tokens)
        return own_seconds(worker, self._giver(view, waiting), waiting, cut, cached)

    def _free_holders(self, view: ClusterView, asked: WorkerView, waiting: WaitingView) -> Iterator[WorkerView]:
        for ref in view.prefixes.holders(waiting.prefix, waiting.num_tokens):
            if ref != asked.ref and view.is_free(ref) and fits(view.workers[ref], waiting):
                yield view.workers[ref]

    def _giver(self, view: ClusterView, waiting: WaitingView) -> WorkerView | None:
        return view.workers.get(waiting.head_start.worker) if waiting.head_start else None

    def _take_own(self, view: ClusterView, worker: WorkerView) -> Take | None:
        """What it gave a head start itself, before it became an owner, needs no new place: it goes on with that at once."""
        for waiting in self._own(view, worker):
            if fits(worker, waiting):
                return Take(waiting.request_id, self.cut(view, worker, waiting))
        return None

    def _own(self, view: ClusterView, worker: WorkerView) -> Iterable[WaitingView]:
        return [waiting for request_id in worker.head_starts if (waiting := view.waiting.get(request_id)) is not None]

    def cut(self, view: ClusterView, worker: WorkerView, waiting: WaitingView) -> int:
        """Everything that is offered, if it saves more seconds of prefill than its transfer costs; else 0.

        Only what lies behind the worker's own cached prefix is pulled and counts. An offer that the cache should have already is
        given along: a worker that finds it there releases the offer unpulled, and one that does not is glad of it.
        """
        cut = usable_cut(waiting)
        giver = self._giver(view, waiting)
        if not cut or giver is None or giver.fingerprint != worker.fingerprint:
            return 0
        cached = view.prefixes.cached_tokens(worker.ref, waiting.prefix, waiting.num_tokens)
        start = cached if cached < cut else 0
        return cut if prefill_seconds(worker, start, cut) > pull_seconds(worker, giver, cut - start) else 0

    def assist(self, view: ClusterView, worker: WorkerView) -> Assist | None:
        """The oldest prompt without a head start that will still wait when this worker has computed it; at least the last in the line."""
        last: Assist | None = None
        rate = 0.0
        for looked, waiting in enumerate(view.waiting.without_head_start(view.about_to_take)):
            if looked == self._settings.look_ahead:
                break
            limit = assist_limit(worker, waiting.num_tokens)
            if limit <= 0 or self._held_by_an_owner(view, worker, waiting, limit):
                continue
            last = last or Assist(waiting.request_id, limit)
            rate = rate or sum(request_rate(view.workers[ref], waiting) for ref in view.roles.owners)
            if (view.about_to_take + looked) >= rate * prefill_seconds(worker, 0, limit):
                return Assist(waiting.request_id, limit)
        return last

    def _held_by_an_owner(self, view: ClusterView, giver: WorkerView, waiting: WaitingView, limit: int) -> bool:
        """A head start saves nothing where an owner's cache ends so late that computing the rest there costs less than its transfer."""
        for ref in islice(view.prefixes.holders(waiting.prefix, waiting.num_tokens), MAX_HOLDERS):
            owner = view.workers.get(ref)
            if owner is None or not owner.ready or ref not in view.roles.owners:
                continue
            cached = view.prefixes.cached_tokens(ref, waiting.prefix, waiting.num_tokens)
            if limit <= cached or prefill_seconds(owner, cached, limit) <= pull_seconds(owner, giver, limit - cached):
                return True
        return False


def _rank(worker: WorkerView) -> tuple[bool, float]:
    """Who owns first: whoever is not said to be low-end, then the fastest."""
    return worker.role != "low", worker.speed


def _grows(view: ClusterView, waiting: WaitingView) -> bool:
    held = waiting.head_start
    return held is not None and held.worker in view.workers and not held.stopped and held.offered < held.limit
