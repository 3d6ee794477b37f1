"""The scheduler core: events in, commands out.

It knows nothing but what events told it, so a new leader's core is a fresh one. The rules are in `docs/protocol.md`; each lives
in one file beside this one:

| file           | rule                                                        |
|----------------|-------------------------------------------------------------|
| `adoption.py`  | requests that it learns of                                  |
| `members.py`   | workers come, leave, fall silent; who owns, who assists     |
| `reports.py`   | reports against the books: news, audit, head starts         |
| `placement.py` | free owners take, idle assistants give head starts          |
| `moves.py`     | from one owner to another, and to the end                   |
| `listeners.py` | requests that nobody listens to                             |
| `admission.py` | what gateways are told of the load                          |
| `state.py`     | the books that these share                                  |
"""

from __future__ import annotations

from typing import ClassVar

from scheduler.admission import Admission
from scheduler.adoption import Adoption
from scheduler.events import (
    Deposed,
    Elected,
    EndWritten,
    FenceRaised,
    Joined,
    Known,
    Left,
    MoveBegun,
    Placed,
    Reconnected,
    RecordClosed,
    Requeued,
    SchedulerCommand,
    SchedulerEvent,
    Tick,
)
from scheduler.members import Members
from scheduler.moves import Moves
from scheduler.output_lengths import OutputLengths
from scheduler.placement import Placement
from scheduler.policies import make_policy
from scheduler.policies.base import Policy
from scheduler.reports import Reports
from scheduler.requests import CANCELLED, Ending, Stage
from scheduler.settings import SchedulerSettings
from scheduler.state import State
from shared.messages import CancelAsked, GatewayBeat, ListenerChange, Report
from shared.types import MoveCause, Phase, RequestId


class Leadership:
    """The books and the rules of one epoch."""

    moves_class: ClassVar[type[Moves]] = Moves
    members_class: ClassVar[type[Members]] = Members
    reports_class: ClassVar[type[Reports]] = Reports
    placement_class: ClassVar[type[Placement]] = Placement

    def __init__(self, state: State, policy: Policy) -> None:
        self.state = state
        self.moves = self.moves_class(state)
        self.members = self.members_class(state, policy, self.moves)
        self.adoption = Adoption(state, self.moves)
        self.reports = self.reports_class(state, self.members, self.moves)
        self.placement = self.placement_class(state, policy, self.moves)
        self.admission = Admission(state)

    def handle(self, event: SchedulerEvent, now: float) -> list[SchedulerCommand]:
        self._note(event, now)
        self.placement.dispatch(now)
        self.admission.publish(now)
        out, self.state.out = self.state.out, []
        return out

    def _note(self, event: SchedulerEvent, now: float) -> None:
        match event:
            case Report():
                self.reports.hear(event, now)
            case Known():
                self.adoption.on_known(event, now)
            case Placed():
                self.placement.on_placed(event, now)
            case Tick():
                self._tick(now)
            case GatewayBeat():
                self.state.listeners.beat(event, now)
            case ListenerChange():
                self.state.listeners.change(event, now)
            case CancelAsked():
                self._end(event.request_id, CANCELLED, now)
            case MoveBegun():
                self.moves.on_move_begun(event, now)
            case FenceRaised():
                self.moves.on_fence_raised(event, now)
            case Requeued():
                self.moves.on_requeued(event, now)
            case EndWritten():
                self.moves.on_end_written(event, now)
            case RecordClosed():
                self.moves.on_record_closed(event, now)
            case Joined():
                self.members.on_joined(event, now)
            case Left():
                self.members.on_left(event, now)
            case Reconnected():
                self._reconnected(now)
            case Elected() | Deposed():
                raise ValueError(f"{event} begins or ends a leadership; the core handles it")

    def _tick(self, now: float) -> None:
        self._repeat_writes(now)
        self.members.judge(now)
        for request_id in self.state.deadlines.due(now):
            self._end(request_id, self._timed_out(request_id), now)
        for request_id in self.state.listeners.lost(now):
            self._end(request_id, CANCELLED, now)
        for request_id in self.state.patience.due(now):
            self._lose_patience(request_id, now)

    def _repeat_writes(self, now: float) -> None:
        self.state.out += self.state.writes.overdue(now)
        self.state.out += self.state.orders.overdue(now)

    def _end(self, request_id: RequestId, ending: Ending, now: float) -> None:
        request = self.state.requests.get(request_id)
        if request is not None:
            self.moves.end(request, ending, now)

    def _timed_out(self, request_id: RequestId) -> Ending:
        timeout_s = self.state.requests[request_id].submission.timeout_s
        return Ending(Phase.FAILED, f"timeout: not finished within {timeout_s:g} s", "timeout")

    def _lose_patience(self, request_id: RequestId, now: float) -> None:
        request = self.state.requests.get(request_id)
        if request is not None and request.stage is Stage.RUNNING:
            self.moves.move(request, MoveCause.LOST_JOB, now)

    def _reconnected(self, now: float) -> None:
        """Nobody could be heard, us included: every period starts anew."""
        settings, state = self.state.settings, self.state
        state.liveness.restart(now)
        state.listeners.restart(now)
        state.patience.put_off(state.patience, now + settings.cancel_grace_s)
        state.judge_from = now + settings.liveness_s
        self.admission.republish()


class SchedulerCore:
    """One scheduler process: leads, or waits. Overridable by `leadership_class` (a simulator plants bugs there)."""

    leadership_class: ClassVar[type[Leadership]] = Leadership

    def __init__(self, settings: SchedulerSettings | None = None) -> None:
        """Raises `ConfigError` if the policy is unknown."""
        self.settings = settings or SchedulerSettings()
        self._policy = make_policy(self.settings)
        self._lengths = OutputLengths(self.settings.output_quantile, self.settings.default_output_tokens)
        self._leadership: Leadership | None = None
        self._last_epoch = 0
        self._last_job = 0

    @property
    def leads(self) -> bool:
        return self._leadership is not None

    def handle(self, event: SchedulerEvent, now: float) -> list[SchedulerCommand]:
        """Deterministic: the same events at the same times give the same commands. `now` is monotonic seconds."""
        if isinstance(event, Elected):
            return self._elected(event, now)
        if isinstance(event, Deposed) or (isinstance(event, Report) and event.seen.epoch > self._last_epoch):
            # A worker that has accounted for a later leader's job proves that we lead no more, before the lease says so.
            return self._deposed()
        return [] if self._leadership is None else self._leadership.handle(event, now)

    def _elected(self, event: Elected, now: float) -> list[SchedulerCommand]:
        """An epoch that was ours may come back after `Deposed`, so job numbers are never used twice."""
        if event.epoch < self._last_epoch or (self.leads and event.epoch == self._last_epoch):
            return []
        self._deposed()
        self._last_epoch = event.epoch
        state = State(self.settings, event.epoch, self._last_job, self._lengths, now)
        self._leadership = self.leadership_class(state, self._policy)
        return []

    def _deposed(self) -> list[SchedulerCommand]:
        if self._leadership is not None:
            self._last_job = self._leadership.state.job_number
            self._leadership = None
        return []

    def check(self) -> None:
        """Raises `AssertionError` if any invariant is broken."""
        if self._leadership is not None:
            self._leadership.state.check()

    def __repr__(self) -> str:
        if self._leadership is None:
            return f"<SchedulerCore stands by, last epoch {self._last_epoch}>"
        state, roles = self._leadership.state, self._leadership.state.fleet.roles
        running = sum(len(worker.running) for worker in state.fleet)
        requests = f"waiting {len(state.backlog)} | running {running} | writes {len(state.writes)}"
        workers = f"workers {len(state.fleet)}: {len(roles.owners)} own, {len(roles.assistants)} assist"
        return f"<SchedulerCore epoch {state.epoch} {self._policy.name} [{requests} | {workers}]>"
