"""What a report says, against what the books say: news, audit, head starts. Lists are complete, so a lost report heals with the next."""

from __future__ import annotations

from scheduler.events import Command
from scheduler.fleet import Worker
from scheduler.members import Members
from scheduler.moves import Moves
from scheduler.requests import HeadStart, LiveRequest, Stage, whole_limit
from scheduler.state import State
from shared.messages import AssistState, OwnedState, ReleaseAssist, Report, Returned, Revoke
from shared.types import GRANULE_TOKENS, MoveCause, RequestId, whole_granules

FENCED = frozenset({Stage.REQUEUING, Stage.ENDING})


class Reports:
    def __init__(self, state: State, members: Members, moves: Moves) -> None:
        self._state = state
        self._members = members
        self._moves = moves

    def hear(self, report: Report, now: float) -> None:
        worker = self._state.fleet.get(report.ref) or self._members.returns(report.ref, report.counter, now)
        if worker is None:
            self._revoke_zombie(report)
        elif report.counter > worker.counter:
            self._state.liveness.heard(report.ref, now)
            self._take_in(worker, report, now)

    def _take_in(self, worker: Worker, report: Report, now: float) -> None:
        state_before = worker.state
        self._state.roles_stale |= worker.hear(report)
        self._forget_told(worker, now)
        for request_id in report.closed:
            self._closed(worker, request_id, now)
        for returned in report.returned:
            self._returned(worker, returned, now)
        self._owned(worker, report, now)
        self._head_starts(worker, report, now)
        self._state.fleet.refresh(worker)
        if worker.state is not state_before:
            self._members.reclassify()

    def _forget_told(self, worker: Worker, now: float) -> None:
        if worker.told:
            recent = now - self._state.settings.retry_s
            worker.told = {message: at for message, at in worker.told.items() if at > recent}

    def _revoke_zombie(self, report: Report) -> None:
        """A dead incarnation that writes on is fenced off; telling it so frees its memory sooner."""
        for own in report.owned:
            request = self._state.requests.get(own.request_id)
            if request is not None and own.attempt < request.attempt:
                self._state.out.append(Command(report.ref, Revoke(own.request_id, request.attempt)))

    # -- requests

    def _closed(self, worker: Worker, request_id: RequestId, now: float) -> None:
        request = self._state.requests.get(request_id)
        if request is None:
            return
        if request.ending is None and worker.running.get(request_id) is request:
            self._state.remember_prefix(worker, request, request.submission.num_prompt)
        if request.ending is None and request.computed >= 0:
            self._state.lengths.learn(request.submission.num_prompt, request.delivered // request.submission.num_choices)
        self._moves.drop(request, now)

    def _owned(self, worker: Worker, report: Report, now: float) -> None:
        """The loop over all that a busy worker owns: the only hot one."""
        running, strangers, listed = worker.running, {}, 0
        for own in report.owned:
            request = running.get(own.request_id)
            if request is not None and request.attempt == own.attempt:
                listed += 1
                request.num_tokens, request.computed, request.missing_since = own.num_tokens, own.num_computed, None
                if request.submission.prefix and own.num_computed >= request.remembered + GRANULE_TOKENS:
                    self._remember(worker, request, own.num_computed)
                if request.ending is not None:
                    self._moves.ask_owner_to_end(request, now)
            elif (known := self._state.requests.get(own.request_id)) is not None:
                self._revoke_if_old(worker, known, own.attempt, now)
            else:
                strangers[own.request_id] = worker.strangers.get(own.request_id, now)
                self._stranger(worker, own, strangers[own.request_id], now)
        worker.strangers = strangers
        if listed < len(running):
            self._audit(worker, report, now)

    def _remember(self, worker: Worker, request: LiveRequest, computed: int) -> None:
        """Once per granule of the prompt."""
        whole = whole_granules(min(computed, request.submission.num_prompt))
        if whole > request.remembered:
            request.remembered = whole
            self._state.remember_prefix(worker, request, whole)

    def _stranger(self, worker: Worker, own: OwnedState, since: float, now: float) -> None:
        """Unknown for a whole period: it has ended, and its owner does not know yet."""
        if now - since >= self._state.settings.liveness_s and now >= self._state.judge_from:
            self._moves.revoke(worker, own.request_id, own.attempt + 1, now)

    def _revoke_if_old(self, worker: Worker, request: LiveRequest, attempt: int, now: float) -> None:
        current = request.next_attempt if request.stage in FENCED else request.attempt
        if attempt < current:
            self._moves.revoke(worker, request.request_id, current, now)

    def _returned(self, worker: Worker, returned: Returned, now: float) -> None:
        request = self._state.requests.get(returned.request_id)
        if request is None:
            self._moves.revoke(worker, returned.request_id, returned.attempt + 1, now)
        elif worker.running.get(returned.request_id) is request and returned.attempt == request.attempt:
            self._state.note(request.request_id, "returned", worker=str(worker.ref), reason=returned.reason)
            self._moves.move(request, MoveCause.RETURNED, now)
        else:
            self._revoke_if_old(worker, request, returned.attempt, now)

    def _audit(self, worker: Worker, report: Report, now: float) -> None:
        """Requests that should run there and are not listed: their job was lost, or is not read yet."""
        listed = {own.request_id: own.attempt for own in report.owned}
        for request in [r for request_id, r in worker.running.items() if listed.get(request_id) != r.attempt]:
            if now >= self._state.judge_from and self._lost(request, report, now):
                self._moves.move(request, MoveCause.LOST_JOB, now)

    def _lost(self, request: LiveRequest, report: Report, now: float) -> bool:
        if request.seq is not None and request.seq > report.seen:
            return now - request.placed_at >= self._state.settings.liveness_s
        if request.missing_since is None:
            request.missing_since = now
            return False
        return now - request.missing_since >= self._state.settings.audit_s

    # -- head starts

    def _head_starts(self, worker: Worker, report: Report, now: float) -> None:
        for listed in report.assists:
            held = worker.head_starts.get(listed.assist)
            if held is None:
                self._found(worker, listed, now)
            elif held.released:
                self._state.tell(worker, ReleaseAssist(held.assist), now)
            else:
                self._advance(worker, held, listed, now)
        present = {listed.assist for listed in report.assists}
        for held in [held for held in worker.head_starts.values() if held.assist not in present]:
            if self._vanished(held, report, now):
                self._state.lose_head_start(held, "not reported")

    def _found(self, worker: Worker, listed: AssistState, now: float) -> None:
        """A head start we did not order: an earlier leader's. It is good, if its request still wants one."""
        request = self._state.requests.get(listed.request_id)
        if request is None or request.ending is not None or request.head_start is not None or self._placed_without(request):
            self._state.tell(worker, ReleaseAssist(listed.assist), now)
            return
        held = HeadStart(listed.assist, listed.request_id, worker.ref, whole_limit(request), None, now, listed.offered, listed.stopped)
        held.taken = request.stage is Stage.RUNNING
        self._state.link(worker, held)

    def _placed_without(self, request: LiveRequest) -> bool:
        return request.stage is Stage.PLACING or (request.stage is Stage.RUNNING and request.seq is not None)

    def _advance(self, worker: Worker, held: HeadStart, listed: AssistState, now: float) -> None:
        request = self._state.requests[held.request_id]
        if listed.offered > held.offered:
            self._state.remember_prefix(worker, request, listed.offered)
        grew = held.grows
        held.offered, held.stopped = listed.offered, listed.stopped
        if grew and not held.grows:
            self._state.backlog.look_again(request)
        if request.stage is Stage.RUNNING and request.owner != held.worker and self._passed(request, held):
            self._moves.release(held, now)

    def _passed(self, request: LiveRequest, held: HeadStart) -> bool:
        """The owner has reported computing beyond what it was to pull."""
        return request.computed >= (request.source.tokens if request.source else held.offered)

    def _vanished(self, held: HeadStart, report: Report, now: float) -> bool:
        if held.seq is None or held.seq <= report.seen:
            return True
        return now - held.ordered_at >= self._state.settings.liveness_s and now >= self._state.judge_from
