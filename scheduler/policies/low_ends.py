"""What a low-end with room does for the line: a head start for a prompt that will still wait when it is done, or a whole request."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice

from scheduler.cost_model import assign_blocks, assist_limit, fits, prefill_seconds, pull_seconds
from scheduler.pace import Pace
from scheduler.policies.base import Assist, Take
from scheduler.scores import Role, Score, giver_of, itl_seconds, prefill_beside_decodes, score, useful_cut
from scheduler.settings import SchedulerSettings
from scheduler.view import ClusterView, Roles, WaitingView, WorkerView
from shared.types import WorkerRef, whole_granules

MAX_HOLDERS = 8
"""Workers that hold a prompt's beginning and are compared, the longest first."""
MARGIN = 2.0
"""A low-end must be so many times as soon: a longer answer than expected takes it longer than it would take an owner."""
MAX_LOST = 3
"""Head starts of one request that may vanish. What makes them vanish, its log being gone for one, would do so at once again."""
PRESSED = 0.35
"""Share of the owners' time that the prompts which arrive would fill, from which low-ends go first (docs/journal.md)."""
SHORT = 6
"""Full steps of all low-ends, the tokens of which make the longest line that still counts as short (docs/journal.md)."""
MAX_OWNERS = 8
"""Owners that are asked whether they have memory for the request in front."""
MAX_WHOLE = 8
"""Waiting requests that one decision considers to serve whole."""


class LowEnds:
    """Remembers of the cluster only what follows from its roles: how fast the line moves, and who is the fastest owner of each layout.

    And for as long as one decision takes whether there is a crowd, which it asks itself often.
    """

    def __init__(self, settings: SchedulerSettings) -> None:
        self._settings = settings
        self._roles: Roles | None = None
        self._pace = Pace(0.0, 0.0, 0.0, 0.0, 0.0)
        self._some: list[WorkerRef] = []
        self._step_tokens = 0
        self._seen: ClusterView | None = None
        self._seen_crowded = False
        self._fastest: dict[bytes, WorkerRef] = {}

    def decide(self, view: ClusterView, worker: WorkerView) -> Assist | Take | None:
        """Where decodes are what the owners lack room for, more prefill helps nobody: then whole requests come first.

        In a crowd it begins no head starts beside them either: those would only lengthen its steps, and wait for memory in the end.
        """
        self._look(view)
        if self._crowded(view):
            return self._whole(view, worker) or (None if _serves(worker) else self._head_start(view, worker))
        if view.decode_bound and (take := self._whole(view, worker)) is not None:
            return take
        return self._front(view, worker) or self._head_start(view, worker) or self._whole(view, worker)

    def _look(self, view: ClusterView) -> None:
        if view.roles is not self._roles:
            owners = [view.workers[ref] for ref in sorted(view.roles.owners) if ref in view.workers]
            self._roles, self._pace = view.roles, Pace.of(view)
            self._some = [owner.ref for owner in owners[:MAX_OWNERS]]
            self._step_tokens = sum(view.workers[ref].token_budget for ref in view.roles.assistants if ref in view.workers)
            self._fastest = {owner.fingerprint: owner.ref for owner in sorted(owners, key=lambda owner: owner.speed)}

    def _crowded(self, view: ClusterView) -> bool:
        if view is not self._seen:
            self._seen, self._seen_crowded = view, self._is_crowded(view)
        return self._seen_crowded

    def _between_takes(self, view: ClusterView, waiting: WaitingView) -> float:
        """Seconds from one take to the next, by requests as long as the line's are on average."""
        return self._pace.seconds(view.waiting.mean_tokens, waiting.mean_output)

    def _is_crowded(self, view: ClusterView) -> bool:
        """Much arrives, and the owners that are looked at lack memory for the request in front, before which nobody is taken."""
        first = next(view.waiting.first(1), None)
        if first is None or not self._pressed(view):
            return False
        some = [view.workers[ref] for ref in self._some if ref in view.workers]
        return bool(some) and all(_serves(owner) and owner.free.blocks < assign_blocks(owner, first) for owner in some)

    # -- low-ends first

    def _pressed(self, view: ClusterView) -> bool:
        """Without owners nobody's time is filled: a prefill takes for ever, and has no share."""
        return PRESSED < view.prompt_tokens_per_s * self._pace.prefill_s < float("inf")

    def _at_once(self, view: ClusterView) -> int:
        """Head starts that all low-ends compute at once."""
        return self._settings.max_assists * len(view.roles.assistants)

    def go_first(self, view: ClusterView, owner: WorkerView) -> bool:
        """Whether this owner leaves prompts to low-ends until those have done their share, although it has room.

        It does while so much arrives that it would fill more than a third of its time with prefill, and has decodes that are served
        sooner meanwhile: a step without prefill takes a third of the time, and fewer decodes at once leave more room when a burst comes.
        In a longer line whom nobody computes is taken, and else who is farthest. In a crowd low-ends have requests of their own to serve.
        """
        self._look(view)
        return self._short(view) and owner.decodes > 0 and self._pressed(view) and not self._crowded(view)

    def _short(self, view: ClusterView) -> bool:
        """Twice as many requests as low-ends compute at once, and `SHORT` of their steps in tokens: two very long prompts are a burst."""
        few = len(view.waiting) <= 2 * self._at_once(view)
        return few and len(view.waiting) * view.waiting.mean_tokens <= SHORT * self._step_tokens

    def share_first(self, view: ClusterView, owner: WorkerView, waiting: WaitingView) -> Assist | None:
        """The head start that the fastest low-end with room gives a prompt before this owner takes it."""
        helper = view.workers.get(view.helper) if view.helper else None
        if helper is None or helper.fingerprint != owner.fingerprint or waiting.head_start is not None:
            return None
        return self._share_of(view, helper, waiting)

    def _share_of(self, view: ClusterView, worker: WorkerView, waiting: WaitingView) -> Assist | None:
        limit = assist_limit(worker, waiting.num_tokens, self._share(worker, waiting))
        return Assist(waiting.request_id, limit, worker.ref) if limit > 0 and self._wanted(view, worker, waiting, limit) else None

    def lacks_share(self, view: ClusterView, waiting: WaitingView) -> bool:
        """Its head start has not come so far yet."""
        giver = giver_of(view, waiting)
        if waiting.head_start is None or giver is None:
            return False
        return waiting.head_start.offered < whole_granules(min(waiting.num_tokens - 1, self._share(giver, waiting)))

    def _share(self, worker: WorkerView, waiting: WaitingView) -> int:
        """Each low-end works as long as any other on what it is left: a slow one does less."""
        usual = self._pace.helper_speed
        return int(self._pace.share(waiting.num_tokens, waiting.mean_output) * worker.speed / usual) if usual else 0

    def _front(self, view: ClusterView, worker: WorkerView) -> Assist | None:
        """Under pressure the front of the line gets its share before others get all that there is time for."""
        first = next(view.waiting.without_head_start(), None) if self._pressed(view) else None
        if first is None or view.waiting.place(first.request_id) >= self._at_once(view):
            return None
        return self._share_of(view, worker, first)

    # -- head starts

    def _head_start(self, view: ClusterView, worker: WorkerView) -> Assist | None:
        """For the oldest prompt without one that will still wait when this worker has computed it; else for the last in the line.

        It computes in order: what it has begun comes first. Nearer prompts would be taken from under its hands.
        """
        first = next(view.waiting.without_head_start(view.about_to_take), None)
        if first is None:
            return None
        between, busy = self._between_takes(view, first), worker.growing_tokens / worker.speed
        for skip in dict.fromkeys((max(view.about_to_take, int(busy / between)), view.about_to_take)):
            prompts = self._possible(view, worker, skip)
            late = (
                one
                for one in prompts
                if view.waiting.place(one[0].request_id) * between >= busy + prefill_beside_decodes(worker, 0, one[1])
            )
            for waiting, limit in chain(late, reversed(prompts)):
                if self._wanted(view, worker, waiting, limit):
                    return Assist(waiting.request_id, limit)
        return None

    def _possible(self, view: ClusterView, worker: WorkerView, skip: int) -> list[tuple[WaitingView, int]]:
        """Prompts that could be given a head start here, in order, and how far it could go."""
        prompts = islice(view.waiting.without_head_start(skip), self._settings.look_ahead)
        return [(waiting, limit) for waiting in prompts if (limit := assist_limit(worker, waiting.num_tokens)) > 0]

    def _wanted(self, view: ClusterView, worker: WorkerView, waiting: WaitingView, limit: int) -> bool:
        if waiting.assists_lost >= MAX_LOST or not self._worth(view, worker, limit):
            return False
        return not self._held_by_an_owner(view, worker, waiting, limit)

    def _worth(self, view: ClusterView, giver: WorkerView, limit: int) -> bool:
        """There is somebody who can read it, and computing it there would take longer than moving it."""
        owner = view.workers.get(self._fastest[giver.fingerprint]) if giver.fingerprint in self._fastest else None
        return owner is not None and prefill_seconds(owner, 0, limit) > pull_seconds(owner, giver, limit)

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

    # -- whole requests

    def _whole(self, view: ClusterView, worker: WorkerView) -> Take | None:
        """The first request that this worker would finish much sooner than the owners, who have others before it.

        In a crowd sooner is enough: room for decodes is what it brings, and a longer answer than expected keeps no owner waiting.
        """
        owner = self._owner(view)
        if owner is None:
            return None
        margin = 1.0 if self._crowded(view) else MARGIN
        for waiting in self._candidates(view, worker, owner, margin):
            cut = useful_cut(view, worker, waiting)
            here = self._here(view, worker, waiting, cut)
            if here.in_time and margin * here.finish_s < self._finish_there(view, owner, waiting):
                return Take(waiting.request_id, cut)
        return None

    def cheaper(self, view: ClusterView, owner: WorkerView, waiting: WaitingView) -> Take | None:
        """The low-end that is free, if it meets the targets and costs less than this owner. Without prices or targets: never."""
        worker = view.workers.get(view.helper) if view.helper else None
        if worker is None or not (worker.usd_per_hour and owner.usd_per_hour and (waiting.ttft_target_s or waiting.itl_target_s)):
            return None
        cut = useful_cut(view, worker, waiting)
        here, there = self._score(view, worker, waiting, cut), score(owner, waiting)
        if fits(worker, waiting) and here.in_time and here.usd < there.usd:
            return Take(waiting.request_id, cut, worker.ref)
        return None

    def _candidates(self, view: ClusterView, worker: WorkerView, owner: WorkerView, margin: float) -> Iterator[WaitingView]:
        """Those whose beginning it holds itself, then the line from where the owners are too far away to come first."""
        own = (view.waiting.get(request_id) for request_id in worker.head_starts[:MAX_WHOLE])
        typical = next(view.waiting.first(1), None)
        if typical is None:
            return
        late = margin * self._here(view, worker, typical, 0).finish_s - self._once_there(view, owner, typical)
        skip = max(0, int(late / self._between(view, owner, typical)))
        for waiting in (*own, *islice(view.waiting.first(skip + MAX_WHOLE, skip), MAX_WHOLE)):
            if waiting is not None and fits(worker, waiting):
                yield waiting

    def _finish_there(self, view: ClusterView, owner: WorkerView, waiting: WaitingView) -> float:
        """The line before it comes first, unless it is short because owners leave it to low-ends."""
        place = 0 if self.go_first(view, owner) else view.waiting.place(waiting.request_id)
        return place * self._between(view, owner, waiting) + self._once_there(view, owner, waiting)

    def _once_there(self, view: ClusterView, owner: WorkerView, waiting: WaitingView) -> float:
        """Prefill at once, then decode in steps of decodes alone: rather too short than too long."""
        idle, cut = owner._replace(queued_tokens=0, growing_tokens=0), useful_cut(view, owner, waiting)
        return score(idle, waiting, giver=giver_of(view, waiting), cut=cut).finish_s

    def _between(self, view: ClusterView, owner: WorkerView, waiting: WaitingView) -> float:
        """As `_between_takes`; where memory is what lacks, a take waits for a decode to end."""
        between = self._between_takes(view, waiting)
        if not view.decode_bound and not self._crowded(view):
            return between
        return max(
            between,
            waiting.mean_output * itl_seconds(owner, waiting.num_tokens) / (max(1, owner.owned, owner.decodes) * len(view.roles.owners)),
        )

    def _here(self, view: ClusterView, worker: WorkerView, waiting: WaitingView, cut: int) -> Score:
        """In a crowd it decodes without prefill beside: it begins no head starts then, and what it has begun comes first."""
        if not self._crowded(view):
            return self._score(view, worker, waiting, cut)
        begun_s = (max(0, worker.queued_tokens) + worker.growing_tokens) / worker.speed
        calm = worker._replace(queued_tokens=0, growing_tokens=0)
        return self._score(view, calm, waiting, cut)._replace(queued_s=begun_s)

    def _score(self, view: ClusterView, worker: WorkerView, waiting: WaitingView, cut: int) -> Score:
        cached = view.prefixes.cached_tokens(worker.ref, waiting.prefix, waiting.num_tokens)
        return score(worker, waiting, Role.WHOLE, giver=giver_of(view, waiting), cut=cut, cached=cached)

    def _owner(self, view: ClusterView) -> WorkerView | None:
        """The fastest."""
        owners = [view.workers[ref] for ref in self._fastest.values() if ref in view.workers]
        return max(owners, key=lambda owner: owner.speed, default=None)


def _serves(worker: WorkerView) -> bool:
    """It has requests of its own, and memory that they give back when they end."""
    return worker.owned > 0 or worker.decodes > 0
