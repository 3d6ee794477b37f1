"""Everything one leadership knows. The rules (`placement`, `moves`, `reports`, `admission`) share it and own no state."""

from __future__ import annotations

from scheduler.alarms import Alarms
from scheduler.backlog import Backlog
from scheduler.events import Command, SchedulerCommand, TellStory
from scheduler.fleet import Fleet, Worker
from scheduler.listeners import Listeners
from scheduler.liveness import Liveness
from scheduler.outbox import Outbox
from scheduler.output_lengths import OutputLengths
from scheduler.prefixes import PrefixMemory
from scheduler.prompt_rate import PromptRate
from scheduler.requests import HeadStart, LiveRequest, Stage
from scheduler.settings import SchedulerSettings
from shared.messages import Control
from shared.types import AssistId, JobSeq, RequestId, WorkerRef

NEVER = float("-inf")


class State:
    """A fresh one per leadership: a new leader knows only what its events tell it."""

    def __init__(self, settings: SchedulerSettings, epoch: int, first_job: int, lengths: OutputLengths, now: float) -> None:
        self.settings = settings
        self.epoch = epoch
        self.job_number = first_job
        self.lengths = lengths
        self.judge_from = now + settings.liveness_s
        """Until then no owner's list is judged: it may not know yet what it owns."""
        self.requests: dict[RequestId, LiveRequest] = {}
        self.backlog = Backlog(settings.look_ahead)
        self.writes: Outbox[RequestId] = Outbox(settings.retry_s)
        """The one unanswered write of a request that is neither waiting nor running."""
        self.orders: Outbox[AssistId] = Outbox(settings.retry_s)
        self.fleet = Fleet(settings.max_assists, settings.itl_target_s)
        self.liveness = Liveness(settings.liveness_s)
        self.prefixes = PrefixMemory()
        self.listeners = Listeners(settings.liveness_s, settings.grace_s)
        self.deadlines: Alarms[RequestId] = Alarms()
        self.patience: Alarms[RequestId] = Alarms()
        """When a running request that was told to end is moved to its end."""
        self.reread_at: dict[RequestId, float] = {}
        self.arrivals = 0
        self.prompt_rate = PromptRate(now)
        self.takes = 0
        """Requests that were given to an owner."""
        self.roles_stale = False
        self.out: list[SchedulerCommand] = []

    # -- words to the outside

    def write(self, request: LiveRequest, command: SchedulerCommand, now: float) -> None:
        """A fenced write: its answer, and only its answer, moves the request on."""
        self.writes.send(request.request_id, command, now)
        self.out.append(command)

    def tell(self, worker: Worker, message: Control, now: float) -> None:
        """A control message; the same one again at most every `retry_s`, so that every report may repeat it."""
        if now - worker.told.get(message, NEVER) < self.settings.retry_s:
            return
        worker.told[message] = now
        self.out.append(Command(worker.ref, message))

    def note(self, request_id: RequestId, what: str, **data: object) -> None:
        """A line for `explain`: never prompt text."""
        self.out.append(TellStory(request_id, what, data))

    def next_job(self) -> JobSeq:
        self.job_number += 1
        return JobSeq(self.epoch, self.job_number)

    # -- prefixes

    def remember_prefix(self, worker: Worker, request: LiveRequest, tokens: int) -> None:
        """The worker has computed or been given so many tokens of the request: it should hold them in cache from now on."""
        if worker.info is not None and worker.info.prefix_cache and request.submission.prefix:
            self.prefixes.note(worker.ref, request.submission.prefix, tokens, worker.info.total_blocks * worker.info.block_tokens)

    # -- head starts: the request, the worker's ledger and the backlog agree

    def link(self, worker: Worker, held: HeadStart) -> None:
        request = self.requests[held.request_id]
        worker.head_starts[held.assist] = held
        self.backlog.give_head_start(request, present=True)
        request.head_start = held
        self.fleet.refresh(worker)

    def unlink(self, held: HeadStart) -> None:
        """Nobody can use it any more; the ledger keeps it only while a release of it is under way."""
        self.orders.answered(held.assist)
        request = self.requests.get(held.request_id)
        if request is not None and request.head_start is held:
            self.backlog.give_head_start(request, present=False)
            request.head_start = None
        worker = self.fleet.get(held.worker)
        if worker is not None:
            if not held.released:
                worker.head_starts.pop(held.assist, None)
                if held.seq is not None:
                    worker.unpromise(held.seq)
            self.fleet.refresh(worker)

    def lose_head_start(self, held: HeadStart, why: str) -> None:
        """It vanished before anybody took it: time is lost, nothing else. (Or it was done with: then this is its end.)"""
        request = self.requests.get(held.request_id)
        if request is not None and not held.released and not held.taken:
            request.assists_lost += 1
            self.note(held.request_id, "head_start_lost", why=why, worker=str(held.worker), assist=held.assist, offered=held.offered)
        held.released = False
        self.unlink(held)

    def check(self) -> None:
        """Raises `AssertionError` if the books do not agree with themselves."""
        self.backlog.check()
        self.fleet.check()
        self.prefixes.check()
        self.listeners.check(set(self.requests))
        for request in self.requests.values():
            self._check_request(request)
        assert len(self.backlog) + len(self.writes) + sum(len(w.running) for w in self.fleet) == len(self.requests)
        assert set(self.writes) <= set(self.requests), "a write for a request that is gone"
        for worker in self.fleet:
            self._check_worker(worker)

    def _check_request(self, request: LiveRequest) -> None:
        owner = self.fleet.get(request.owner) if request.owner else None
        places = {
            "backlog": request in self.backlog,
            "writes": request.request_id in self.writes,
            "running": owner is not None and owner.running.get(request.request_id) is request,
        }
        wanted = {Stage.WAITING: "backlog", Stage.RUNNING: "running"}.get(request.stage, "writes")
        assert [name for name, there in places.items() if there] == [wanted], f"{request!r} is in {places}"
        held = request.head_start
        if held is not None:
            worker = self.fleet.get(held.worker)
            assert not held.released, f"{request!r} counts on a released head start"
            assert worker is not None, f"{request!r} has a head start on a worker that is gone"
            assert worker.head_starts.get(held.assist) is held

    def _check_worker(self, worker: Worker) -> None:
        assert worker.ref in self.liveness, f"nobody watches {worker!r}"
        for request in worker.running.values():
            assert request.stage is Stage.RUNNING, f"{request!r} runs on {worker!r}"
            assert request.owner == worker.ref, f"{request!r} runs on {worker!r}"
        for request in worker.incoming.values():
            assert request.stage is Stage.PLACING, f"{request!r} is incoming on {worker!r}"
        for held in worker.head_starts.values():
            live = self.requests.get(held.request_id)
            assert held.released or (live is not None and live.head_start is held), f"{held} belongs to nobody"

    def worker(self, ref: WorkerRef | None) -> Worker | None:
        return None if ref is None else self.fleet.get(ref)
