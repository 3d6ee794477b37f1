"""The workers: what they say of themselves, and what was promised to them since."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from scheduler.cost_model import standard_seconds
from scheduler.ordered import Ordered
from scheduler.requests import HeadStart, LiveRequest
from scheduler.view import NOTHING, Amount, Roles, WorkerView
from shared.messages import Control, Report, WorkerInfo, WorkerState
from shared.profile import Profile, StepShape
from shared.types import GRANULE_TOKENS, AssistId, JobSeq, RequestId, WorkerId, WorkerRef

FreeKey = tuple[float, int, WorkerRef]
IdleKey = tuple[float, WorkerRef]

SPEED_CHUNK = 512
NO_JOB = JobSeq(0, 0)


class Standing(StrEnum):
    """What a worker is to a request that is being placed; all but the first say why it is not given to that worker."""

    __hash__ = str.__hash__  # An enum's own goes by way of Python, and every placement counts by these.

    FREE = "free"
    NO_CREDIT = "no token credit"
    NO_ROOM = "no room"
    HELPS = "gives head starts"
    AWAY = "draining"


FREE, NO_CREDIT, NO_ROOM, HELPS, AWAY = Standing


class Listing(NamedTuple):
    """Where a worker stands in the fleet's queues and counts."""

    standing: Standing
    free: FreeKey | None = None
    idle: IdleKey | None = None
    soon_free: bool = False
    full: bool = False


class Worker:
    """The ledger of one incarnation. `info` is None while it is only named as an owner by some record."""

    def __init__(self, ref: WorkerRef, info: WorkerInfo | None = None) -> None:
        self.ref = ref
        self.info = info
        self.profile: Profile | None = info.profile if info else None
        self.speed = self._measure()
        self.counter = -1
        self.state = WorkerState.READY
        self.seen = NO_JOB
        self.credit = NOTHING
        self.queued_tokens = 0
        self.decodes = self.decode_context = 0
        self.promises: dict[JobSeq, Amount] = {}
        self.promised = NOTHING
        self.running: dict[RequestId, LiveRequest] = {}
        self.incoming: dict[RequestId, LiveRequest] = {}
        """Requests whose placement here is not answered yet."""
        self.head_starts: dict[AssistId, HeadStart] = {}
        self.held = False
        """A job for it was refused: nothing more before its next report."""
        self.told: dict[Control, float] = {}
        """When each healing message was last sent."""
        self.strangers: dict[RequestId, float] = {}
        """Requests that it lists and we do not know: since when."""

    @property
    def heard(self) -> bool:
        return self.counter >= 0

    @property
    def free(self) -> Amount:
        return NOTHING if self.held or not self.heard else self.credit.minus(self.promised)

    def introduce(self, info: WorkerInfo) -> None:
        self.info, self.profile = info, info.profile
        self.speed = self._measure()

    def _measure(self) -> float:
        return self.profile.prefill_tokens_per_s(SPEED_CHUNK) if self.profile else 0.0

    def hear(self, report: Report) -> bool:
        """Takes over a report's figures. Returns whether its role may have changed."""
        corrected = report.profile is not None and report.profile != self.profile
        changed = report.state is not self.state or corrected
        self.counter, self.state, self.seen, self.held = report.counter, report.state, report.seen, False
        self.credit = Amount(report.credit.tokens, report.credit.blocks, report.credit.sequences)
        self.queued_tokens = self.decodes = self.decode_context = 0
        for owned in report.owned:
            if (left := owned.num_tokens - owned.num_computed) > 1:
                self.queued_tokens += left
            else:
                self.decodes += 1
                self.decode_context += owned.num_tokens
        for seq in [seq for seq in self.promises if seq <= report.seen]:
            self.unpromise(seq)
        if corrected:
            self.profile = report.profile
            self.speed = self._measure()
        return changed

    def promise(self, seq: JobSeq, amount: Amount) -> None:
        self.promises[seq] = amount
        self.promised = self.promised.plus(amount)

    def unpromise(self, seq: JobSeq) -> None:
        amount = self.promises.pop(seq, None)
        if amount is not None:
            self.promised = self.promised.minus(amount)

    def view(self) -> WorkerView | None:
        """None while it has not joined."""
        if self.info is None or self.profile is None:
            return None
        info, held = self.info, self.head_starts.values() if self.head_starts else ()
        growing = [one for one in held if one.grows] if held else ()
        return WorkerView(
            self.ref,
            self.profile,
            info.fingerprint,
            info.block_tokens,
            info.total_blocks,
            info.max_model_tokens,
            info.token_budget,
            self.state is WorkerState.READY,
            self.free,
            self.queued_tokens + self.promised.tokens,
            len(self.running) + len(self.incoming),
            tuple([one.request_id for one in held if not (one.released or one.taken)]) if held else (),
            self.speed,
            self.decodes,
            self.decode_context,
            len(growing),
            info.role,
            sum([one.limit - one.offered for one in growing]) if growing else 0,
            info.usd_per_hour,
        )

    def check(self) -> None:
        total = NOTHING
        for seq, amount in self.promises.items():
            assert seq > self.seen, f"{self!r} still reserves {seq}, which its report accounts for"
            assert min(amount) >= 0, f"{self!r} has a negative reservation {amount}"
            total = total.plus(amount)
        assert total == self.promised, f"{self!r}: promised {self.promised} is not the sum {total}"
        assert all(held.worker == self.ref and held.assist == assist for assist, held in self.head_starts.items())

    def __repr__(self) -> str:
        free = self.free
        work = f"running {len(self.running)} | incoming {len(self.incoming)} | head starts {len(self.head_starts)}"
        room = f"free {free.tokens} tokens {free.blocks} blocks {free.sequences} sequences | promised {len(self.promises)}"
        return f"<Worker {self.ref} {self.state} [{work} | {room}]>"


class Fleet:
    """All live workers, their views, and who of them is free.

    Whoever changes a worker calls `refresh`, whoever looks at the others calls `settle` first: a worker of which many things change at
    once is drawn once.
    """

    def __init__(self, max_assists: int, itl_target_s: float = 0.0) -> None:
        self._max_assists = max_assists
        self._itl_target_s = itl_target_s
        self._workers: dict[WorkerRef, Worker] = {}
        self._views: dict[WorkerRef, WorkerView] = {}
        self._stale: dict[Worker, None] = {}
        self._listed: dict[WorkerRef, Listing] = {}
        self._current: dict[WorkerId, WorkerRef] = {}
        self.views: Mapping[WorkerRef, WorkerView] = MappingProxyType(self._views)
        self.free_owners: Ordered[FreeKey] = Ordered()
        """(seconds until a standard prompt would be done, -free blocks, ref): the best one first."""
        self.idle_assistants: Ordered[IdleKey] = Ordered()
        """(-speed, ref): the fastest first."""
        self.soon_free = 0
        """Owners that will take a request after the coming step or two."""
        self.full = 0
        """Owners whose decodes leave no room for anybody else."""
        self.news: set[WorkerRef] = set()
        """Free owners whose figures changed since they were last asked."""
        self.standings: dict[Standing, int] = dict.fromkeys(Standing, 0)
        """How many workers could, or could not, be given a request now, and why."""
        self.roles = Roles()
        self.largest = 0
        """Tokens of one sequence that the largest member could hold."""
        self.gone: set[WorkerRef] = set()
        """Incarnations that left or were replaced: never again."""
        self.silent: dict[WorkerRef, tuple[WorkerInfo, int]] = {}
        """Declared dead for silence, with their last counter: a new word from one proves that it lives."""

    def __len__(self) -> int:
        return len(self._workers)

    def __iter__(self) -> Iterator[Worker]:
        return iter(list(self._workers.values()))

    def get(self, ref: WorkerRef) -> Worker | None:
        return self._workers.get(ref)

    def current(self, worker: WorkerId) -> WorkerRef | None:
        """The incarnation that joined last."""
        return self._current.get(worker)

    def expect(self, ref: WorkerRef) -> Worker:
        """A worker that some record names as an owner, joined or not."""
        return self._workers.setdefault(ref, Worker(ref))

    def join(self, info: WorkerInfo) -> Worker:
        worker = self.expect(info.ref)
        worker.introduce(info)
        self._current[info.ref.worker] = info.ref
        self.silent.pop(info.ref, None)
        return worker

    def remove(self, worker: Worker) -> None:
        del self._workers[worker.ref]
        self._views.pop(worker.ref, None)
        if self._current.get(worker.ref.worker) == worker.ref:
            del self._current[worker.ref.worker]
        self._unlist(worker.ref)

    def is_free_owner(self, ref: WorkerRef) -> bool:
        return self.standing(ref) is FREE

    def refresh(self, worker: Worker) -> None:
        """Call after any change of a worker: its view and its places in the queues follow when the fleet is next looked at."""
        self._stale[worker] = None

    def settle(self) -> None:
        """Everybody's view and places are as their ledgers say."""
        if self._stale:
            for worker in self._stale:
                self._draw(worker)
            self._stale.clear()

    def _draw(self, worker: Worker) -> None:
        view = worker.view()
        if view is None or self._workers.get(worker.ref) is not worker:
            return
        self._views[worker.ref] = view
        before, now = self._listed.get(worker.ref), self._listing(view)
        if now != before:
            self._unlist(worker.ref)
            self._list(worker.ref, now)
        if now.free is not None:
            self.news.add(worker.ref)

    def take_roles(self, roles: Roles) -> None:
        """Who changes its role changes its place in the queues."""
        before, self.roles = self.roles, roles
        for ref in (before.owners ^ roles.owners) | (before.assistants ^ roles.assistants):
            if (worker := self._workers.get(ref)) is not None:
                self.refresh(worker)
        self.largest = max((view.capacity_tokens for view in self._views.values()), default=0)

    def standing(self, ref: WorkerRef) -> Standing:
        listing = self._listed.get(ref)
        return AWAY if listing is None else listing.standing

    def _listing(self, view: WorkerView) -> Listing:
        if view.ref in self.roles.owners:
            return self._as_owner(view)
        if view.ref in self.roles.assistants:
            return Listing(HELPS, idle=(-view.speed, view.ref) if self._could_assist(view) else None)
        return Listing(AWAY)

    def _as_owner(self, view: WorkerView) -> Listing:
        full = view.full or self._too_slow(view)
        if view.free.tokens > 0 and (view.free.sequences > 0 or view.head_starts):
            return Listing(FREE, (standard_seconds(view), -view.free.blocks, view.ref), None, view.soon_free, full)
        return Listing(NO_ROOM if full else NO_CREDIT, None, None, view.soon_free, full)

    def _too_slow(self, view: WorkerView) -> bool:
        """Its decodes alone take as long as a token may."""
        if not (self._itl_target_s and view.decodes):
            return False
        return view.profile.step_seconds(StepShape(0, 0, view.decodes, view.decode_context)) >= self._itl_target_s

    def _could_assist(self, view: WorkerView) -> bool:
        room = view.free.blocks * view.block_tokens >= GRANULE_TOKENS
        return room and view.free.sequences > 0 and view.growing < self._max_assists

    def _list(self, ref: WorkerRef, listing: Listing) -> None:
        self._listed[ref] = listing
        self.standings[listing.standing] += 1
        self.soon_free += listing.soon_free
        self.full += listing.full
        if listing.free is not None:
            self.free_owners.add(listing.free)
        if listing.idle is not None:
            self.idle_assistants.add(listing.idle)

    def _unlist(self, ref: WorkerRef) -> None:
        listing = self._listed.pop(ref, None)
        if listing is None:
            return
        self.standings[listing.standing] -= 1
        self.soon_free -= listing.soon_free
        self.full -= listing.full
        if listing.free is not None:
            self.free_owners.remove(listing.free)
            self.news.discard(ref)
        if listing.idle is not None:
            self.idle_assistants.remove(listing.idle)

    def check(self) -> None:
        assert not self._stale, "somebody was changed and not drawn anew"
        for worker in self._workers.values():
            worker.check()
            assert worker.info is None or self._views.get(worker.ref) == worker.view(), f"stale view of {worker!r}"
        assert set(self._views) <= set(self._workers)
        assert self._listed == {ref: self._listing(view) for ref, view in self._views.items()}, "somebody stands where it stood before"
        listed = self._listed.values()
        assert list(self.free_owners) == sorted(one.free for one in listed if one.free is not None)
        assert list(self.idle_assistants) == sorted(one.idle for one in listed if one.idle is not None)
        assert self.standings == {each: sum(one.standing is each for one in listed) for each in Standing}
        assert (self.soon_free, self.full) == (sum(one.soon_free for one in listed), sum(one.full for one in listed))
        assert all(self.is_free_owner(ref) for ref in self.news), "somebody who is not free would be asked"
        assert not self.gone & set(self._workers), "a worker that is gone is listed"
