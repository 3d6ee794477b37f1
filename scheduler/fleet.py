"""The workers: what they say of themselves, and what was promised to them since."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from enum import StrEnum
from types import MappingProxyType

from scheduler.cost_model import standard_seconds
from scheduler.ordered import Ordered
from scheduler.requests import HeadStart, LiveRequest
from scheduler.view import NOTHING, Amount, Roles, WorkerView
from shared.messages import Control, Report, WorkerInfo, WorkerState
from shared.profile import PeerLink, Profile, StepShape
from shared.types import GRANULE_TOKENS, AssistId, JobSeq, RequestId, WorkerId, WorkerRef

SPEED_CHUNK = 512
NO_JOB = JobSeq(0, 0)


class Standing(StrEnum):
    """What a worker is to a request that is being placed; all but the first say why it is not given to that worker."""

    FREE = "free"
    NO_CREDIT = "no token credit"
    NO_ROOM = "no room"
    HELPS = "gives head starts"
    AWAY = "draining"


class Worker:
    """The ledger of one incarnation. `info` is None while it is only named as an owner by some record."""

    def __init__(self, ref: WorkerRef, info: WorkerInfo | None = None) -> None:
        self.ref = ref
        self.info = info
        self.profile: Profile | None = info.profile if info else None
        self.speed = self._measure()
        self.links: dict[str, PeerLink] = {}
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
        if report.links is not None:
            self.links = {link.host: link for link in report.links}
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
        info = self.info
        waiting = tuple(held.request_id for held in self.head_starts.values() if not (held.released or held.taken))
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
            waiting,
            self.speed,
            self.decodes,
            self.decode_context,
            sum(held.grows for held in self.head_starts.values()),
            info.role,
            sum(held.limit - held.offered for held in self.head_starts.values() if held.grows),
            info.usd_per_hour,
            info.host,
            self.links,
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
    """All live workers, their views, and who of them is free. `refresh` keeps the three together."""

    def __init__(self, max_assists: int, itl_target_s: float = 0.0) -> None:
        self._max_assists = max_assists
        self._itl_target_s = itl_target_s
        self._workers: dict[WorkerRef, Worker] = {}
        self._views: dict[WorkerRef, WorkerView] = {}
        self._free: dict[WorkerRef, tuple[float, int, WorkerRef]] = {}
        self._idle: dict[WorkerRef, tuple[float, WorkerRef]] = {}
        self._current: dict[WorkerId, WorkerRef] = {}
        self.views: Mapping[WorkerRef, WorkerView] = MappingProxyType(self._views)
        self.free_owners: Ordered[tuple[float, int, WorkerRef]] = Ordered()
        """(seconds until a standard prompt would be done, -free blocks, ref): the best one first."""
        self.idle_assistants: Ordered[tuple[float, WorkerRef]] = Ordered()
        """(-speed, ref): the fastest first."""
        self.soon_free: set[WorkerRef] = set()
        self.full: set[WorkerRef] = set()
        """Owners whose decodes leave no room for anybody else."""
        self.news: set[WorkerRef] = set()
        """Free owners whose figures changed since they were last asked."""
        self._standing: dict[WorkerRef, Standing] = {}
        self.standings: Counter[Standing] = Counter()
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
        return ref in self._free

    def refresh(self, worker: Worker) -> None:
        """Call after any change of a worker: its view and its places in the queues follow."""
        view = worker.view()
        self._unlist(worker.ref)
        if view is not None and worker.ref in self._workers:
            self._views[worker.ref] = view
            self._list(view)

    def take_roles(self, roles: Roles) -> None:
        """Who changes its role changes its place in the queues."""
        before, self.roles = self.roles, roles
        for ref in (before.owners ^ roles.owners) | (before.assistants ^ roles.assistants):
            if (worker := self._workers.get(ref)) is not None:
                self.refresh(worker)
        self.largest = max((view.capacity_tokens for view in self._views.values()), default=0)

    def standing(self, ref: WorkerRef) -> Standing:
        return self._standing.get(ref, Standing.AWAY)

    def _stand(self, view: WorkerView) -> Standing:
        if view.ref in self._free:
            return Standing.FREE
        if view.ref in self.roles.owners:
            return Standing.NO_ROOM if view.ref in self.full else Standing.NO_CREDIT
        return Standing.HELPS if view.ref in self.roles.assistants else Standing.AWAY

    def _list(self, view: WorkerView) -> None:
        self._queue(view)
        standing = self._standing[view.ref] = self._stand(view)
        self.standings[standing] += 1

    def _queue(self, view: WorkerView) -> None:
        if view.ref in self.roles.owners:
            if view.soon_free:
                self.soon_free.add(view.ref)
            if view.full or self._too_slow(view):
                self.full.add(view.ref)
            if view.free.tokens > 0 and (view.free.sequences > 0 or view.head_starts):
                self._free[view.ref] = (standard_seconds(view), -view.free.blocks, view.ref)
                self.free_owners.add(self._free[view.ref])
                self.news.add(view.ref)
        elif view.ref in self.roles.assistants and self._could_assist(view):
            self._idle[view.ref] = (-view.speed, view.ref)
            self.idle_assistants.add(self._idle[view.ref])

    def _too_slow(self, view: WorkerView) -> bool:
        """Its decodes alone take as long as a token may."""
        decodes = StepShape(0, 0, view.decodes, view.decode_context)
        return self._itl_target_s > 0 and view.decodes > 0 and view.profile.step_seconds(decodes) >= self._itl_target_s

    def _could_assist(self, view: WorkerView) -> bool:
        room = view.free.blocks * view.block_tokens >= GRANULE_TOKENS
        return room and view.free.sequences > 0 and view.growing < self._max_assists

    def _unlist(self, ref: WorkerRef) -> None:
        self.soon_free.discard(ref)
        self.full.discard(ref)
        if (standing := self._standing.pop(ref, None)) is not None:
            self.standings[standing] -= 1
        self.news.discard(ref)
        if (free := self._free.pop(ref, None)) is not None:
            self.free_owners.remove(free)
        if (idle := self._idle.pop(ref, None)) is not None:
            self.idle_assistants.remove(idle)

    def check(self) -> None:
        for worker in self._workers.values():
            worker.check()
            assert worker.info is None or self._views.get(worker.ref) == worker.view(), f"stale view of {worker!r}"
        assert set(self._views) <= set(self._workers)
        assert len(self.free_owners) == len(self._free)
        assert len(self.idle_assistants) == len(self._idle)
        assert +self.standings == Counter(self._standing.values())
        assert set(self._standing) == set(self._views)
        assert self.news <= set(self._free), "somebody who is not free would be asked"
        assert not self.gone & set(self._workers), "a worker that is gone is listed"
