"""Answers credit: free owners take, idle assistants give head starts. What is decided is reserved at once."""

from __future__ import annotations

from scheduler.cost_model import assign_amount, assist_amount, fits, granted
from scheduler.events import Place, Placed, TellStory
from scheduler.fleet import Worker
from scheduler.moves import Moves
from scheduler.placement_story import placement_story
from scheduler.policies.base import Assist, Policy, Take
from scheduler.requests import HeadStart, LiveRequest, Stage
from scheduler.state import State
from scheduler.view import ClusterView, WaitingView, WorkerView
from shared.fabric import WriteStatus
from shared.messages import Assign, AssistOrder, Source, StopAssist
from shared.types import AssistId, Phase, WorkerRef

MAX_DECLINED = 4
"""Low-ends that may decline before nobody else is asked."""


class Placement:
    def __init__(self, state: State, policy: Policy, moves: Moves) -> None:
        self._state = state
        self._policy = policy
        self._moves = moves
        self._front_asked = -1

    def dispatch(self, now: float) -> None:
        """Until nobody who is free wants anything."""
        self._state.fleet.settle()
        if self._state.backlog.line_length:
            self._shelve()
            self._meet_all(now)
            self._take_all(now)
            self._assist_all(now)
            self._state.fleet.settle()

    def _shelve(self) -> None:
        largest = self._state.fleet.largest
        for request in self._state.backlog.shelve_misfits(largest) if largest else []:
            self._state.note(request.request_id, "no_worker_can_hold_it", tokens=request.num_tokens, largest=largest)

    def _meet_all(self, now: float) -> None:
        for request in self._state.backlog.newcomers():
            self._policy.meet(self.view(now), request)

    def _take_all(self, now: float) -> None:
        """Whoever declined is asked again only when its figures or the front of the line have changed."""
        backlog, fleet, asked = self._state.backlog, self._state.fleet, 0
        while backlog.line_length and (view := self._next_free(asked)) is not None:
            fleet.news.discard(view.ref)
            match self._policy.take(self.view(now), view):
                case Take() as take:
                    self._assign(fleet.views[take.worker or view.ref], take, now)
                    asked = 0
                case Assist() as assist:
                    self._order(fleet.views[assist.worker or view.ref], assist, now)
                    fleet.news.add(view.ref)
                case None if not self._make_room(view, now):
                    asked += 1
        self._front_asked = backlog.front

    def _next_free(self, asked: int) -> WorkerView | None:
        """The best free owner that has not declined what stands in front now."""
        fleet = self._state.fleet
        fleet.settle()
        if self._policy.waits_for_head_starts or self._state.backlog.front != self._front_asked:
            best = fleet.free_owners.at(asked)
            return fleet.views[best[-1]] if best is not None else None
        return fleet.views[min(fleet.news)] if fleet.news else None

    def _assist_all(self, now: float) -> None:
        """The fastest low-end first; one that declines may stand before others that do not, a few of whom are asked too."""
        backlog, declined = self._state.backlog, 0
        while backlog.line_length and declined < MAX_DECLINED and (view := self._next_idle(declined)) is not None:
            match self._policy.assist(self.view(now), view):
                case Assist() as assist:
                    self._order(view, assist, now)
                case Take() as take:
                    self._assign(view, take, now)
                case None:
                    declined += 1

    def _next_idle(self, declined: int) -> WorkerView | None:
        fleet = self._state.fleet
        fleet.settle()
        best = fleet.idle_assistants.at(declined)
        return fleet.views[best[-1]] if best is not None else None

    def view(self, now: float) -> ClusterView:
        fleet = self._state.fleet
        helper = fleet.idle_assistants.at(0)
        return ClusterView(
            fleet.views,
            self._state.backlog,
            fleet.roles,
            fleet.soon_free,
            self._state.prefixes,
            fleet.is_free_owner,
            None if helper is None else helper[-1],
            0 < fleet.full == len(fleet.roles.owners),
            self._state.prompt_rate.per_s(now),
        )

    # -- an owner takes

    def _assign(self, view: WorkerView, take: Take, now: float) -> None:
        request, worker = self._state.requests[take.request_id], self._state.fleet.get(view.ref)
        assert worker is not None
        if not fits(view, request):
            raise ValueError(f"policy {self._policy.name} gave {request!r} to {worker!r}, where it does not fit")
        story = placement_story(self._state, self._policy.name, request, view, take)
        self._state.backlog.remove(request)
        self._state.takes += 1
        request.enter(Stage.PLACING)
        request.owner, request.seq, request.placed_at = view.ref, self._state.next_job(), now
        request.source, request.computed, request.missing_since = self._source(request, take), -1, None
        request.remembered = 0
        worker.promise(request.seq, granted(view, assign_amount(view, request, max(take.cut, self._cached(view, request)))))
        worker.incoming[request.request_id] = request
        job = Assign(request.seq, request.request_id, request.attempt, request.num_tokens, request.source)
        self._state.write(request, Place(view.ref, job), now)
        self._settle_head_start(request, view.ref, now)
        self._state.fleet.refresh(worker)
        self._state.out.append(TellStory(request.request_id, "assigned", story))

    def _cached(self, view: WorkerView, waiting: WaitingView) -> int:
        return self._state.prefixes.cached_tokens(view.ref, waiting.prefix, waiting.num_tokens)

    def _source(self, request: LiveRequest, take: Take) -> Source | None:
        held = request.head_start
        if held is None or not take.cut:
            return None
        giver = self._state.fleet.views.get(held.worker)
        return Source(held.assist, held.worker, take.cut, giver.host if giver else "")

    def _settle_head_start(self, request: LiveRequest, owner: WorkerRef, now: float) -> None:
        """The low-end stops: its part is taken, or is not wanted."""
        held = request.head_start
        if held is None:
            return
        giver = self._state.fleet.get(held.worker)
        if request.source is None or giver is None:
            self._moves.release(held, now)
            return
        held.taken = True
        self._state.fleet.refresh(giver)
        if giver.ref != owner:
            self._state.tell(giver, StopAssist(held.assist, owner), now)

    def _make_room(self, view: WorkerView, now: float) -> bool:
        """An idle owner whose own head starts leave no room for anybody gives up the last one: nothing else would ever free it."""
        if view.owned or not view.head_starts:
            return False
        own = [
            request
            for request_id in view.head_starts
            if (request := self._state.requests.get(request_id)) and request.stage is Stage.WAITING
        ]
        worker = self._state.fleet.get(view.ref)
        if not own or worker is None or worker.promises:
            return False
        held = max(own, key=lambda request: request.key).head_start
        if held is None:
            return False
        self._moves.release(held, now)
        return True

    # -- an assistant gives a head start

    def _order(self, view: WorkerView, assist: Assist, now: float) -> None:
        worker = self._state.fleet.get(view.ref)
        assert worker is not None
        amount = assist_amount(view, assist.limit)
        if amount.blocks > view.free.blocks or amount.sequences > view.free.sequences or assist.limit <= 0:
            raise ValueError(f"policy {self._policy.name} ordered {assist} from {worker!r}, where it does not fit")
        seq = self._state.next_job()
        held = HeadStart(AssistId(f"{seq.epoch}.{seq.number}"), assist.request_id, view.ref, assist.limit, seq, now)
        worker.promise(seq, amount)
        self._state.link(worker, held)
        command = Place(view.ref, AssistOrder(seq, held.assist, assist.request_id, assist.limit))
        self._state.orders.send(held.assist, command, now)
        self._state.out.append(command)
        self._state.note(assist.request_id, "head_start", worker=str(view.ref), assist=held.assist, limit=assist.limit)

    # -- answers

    def on_placed(self, event: Placed, now: float) -> None:
        if isinstance(event.job, Assign):
            self._on_assign_placed(event, event.job, now)
        else:
            self._on_order_placed(event, event.job)

    def _on_assign_placed(self, event: Placed, job: Assign, now: float) -> None:
        request = self._state.requests.get(job.request_id)
        if request is None or request.stage is not Stage.PLACING or request.seq != job.seq:
            return
        worker = self._state.fleet.get(event.worker)
        assert worker is not None, f"{request!r} is placed with a worker that is gone"
        if event.status is WriteStatus.DONE:
            self._run(request, worker, now)
        else:
            self._moves.detach(request)
            request.owner, request.seq, request.source = None, None, None
            self._hold(worker, event.status)
            self._moves.refused(request, event.status, now)

    def _run(self, request: LiveRequest, worker: Worker, now: float) -> None:
        self._state.writes.answered(request.request_id)
        request.enter(Stage.RUNNING)
        request.become(Phase.RUNNING)
        request.placed_at = now
        worker.running[request.request_id] = worker.incoming.pop(request.request_id)
        if request.ending is not None:
            self._moves.ask_owner_to_end(request, now)

    def _on_order_placed(self, event: Placed, job: AssistOrder) -> None:
        worker = self._state.fleet.get(event.worker)
        if self._state.orders.get(job.assist) != Place(event.worker, job) or worker is None:
            return
        self._state.orders.answered(job.assist)
        if event.status is not WriteStatus.DONE:
            self._hold(worker, event.status)
            self._state.lose_head_start(worker.head_starts[job.assist], f"refused: {event.status}")

    def _hold(self, worker: Worker, status: WriteStatus) -> None:
        """A refusal that may be about the worker: it gets nothing more before it has been heard again."""
        worker.held = status is WriteStatus.SUPERSEDED or worker.held
        self._state.fleet.refresh(worker)
