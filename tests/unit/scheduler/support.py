"""A core under a hand-moved clock. Every event is followed by `check()`, so each test also tests the invariants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from scheduler.core import SchedulerCore
from scheduler.events import (
    Command,
    Elected,
    FenceRaised,
    Joined,
    Known,
    MoveBegun,
    Place,
    Placed,
    PublishLoad,
    Requeued,
    SchedulerCommand,
    SchedulerEvent,
    TellStory,
    Tick,
)
from scheduler.requests import LiveRequest
from scheduler.settings import SchedulerSettings
from shared.fabric import FenceAnswer, Record, WriteStatus
from shared.messages import (
    Assign,
    AssistOrder,
    AssistState,
    Control,
    Credit,
    OwnedState,
    Report,
    Returned,
    Submission,
    WorkerInfo,
    WorkerState,
)
from shared.profile import Profile
from shared.types import NO_GATEWAY, AssistId, GatewayId, JobSeq, Phase, RequestId, WorkerId, WorkerRef

FAST = Profile(0.01, 1e-5, 0.0, 1e-4, 1e-8, 1000)
SLOW = Profile(0.02, 2e-4, 0.0, 1e-4, 1e-8, 1000)
LAYOUT = b"layout"

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Held:
    """A head start as a policy sees it: `HeadStartView`."""

    assist: AssistId
    worker: WorkerRef
    offered: int
    limit: int
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class Waits:
    """A waiting request as a policy sees it: `WaitingView`."""

    request_id: RequestId
    num_tokens: int
    expected_output: int
    head_start: Held | None = None
    num_choices: int = 1
    num_prompt: int = 0
    assists_lost: int = 0
    prefix: bytes = b""
    mean_output: int = 1


def ref(name: str, incarnation: str = "1") -> WorkerRef:
    return WorkerRef(WorkerId(name), incarnation)


def rid(name: str) -> RequestId:
    return RequestId(name)


def info(name: str, profile: Profile, incarnation: str = "1", *, fingerprint: bytes = LAYOUT, total_blocks: int = 1000) -> WorkerInfo:
    return WorkerInfo(ref(name, incarnation), "model", fingerprint, "gpu", "host", profile, 16, total_blocks, 32, 512, 8192)


def submission(
    name: str,
    *,
    n: int = 200,
    max_tokens: int = 64,
    priority: int = 0,
    timeout_s: float = 0.0,
    background: bool = True,
    gateway: str = "",
    prefix: bytes = b"",
) -> Submission:
    return Submission(rid(name), n, max_tokens, 0, priority, timeout_s, background, GatewayId(gateway), prefix=prefix)


def record(
    wanted: Submission,
    phase: Phase = Phase.QUEUED,
    attempt: int = 1,
    owner: WorkerRef | None = None,
    *,
    cancel_asked: bool = False,
    crashes: int = 0,
    num_tokens: int | None = None,
) -> Record:
    tokens = wanted.num_prompt if num_tokens is None else num_tokens
    return Record(wanted.request_id, phase, attempt, owner, cancel_asked, crashes, wanted, wanted.gateway or NO_GATEWAY, tokens)


def owned(name: str, attempt: int = 1, num_tokens: int = 200, num_computed: int = 0) -> OwnedState:
    return OwnedState(rid(name), attempt, num_tokens, num_computed)


def told(commands: list[SchedulerCommand]) -> list[tuple[str, Control]]:
    """(worker id, message) of every control message."""
    return [(command.worker.worker, command.message) for command in commands if isinstance(command, Command)]


def of(commands: list[SchedulerCommand], kind: type[C]) -> list[C]:
    return [command for command in commands if isinstance(command, kind)]


def stories(commands: list[SchedulerCommand]) -> list[str]:
    return [line.what for line in of(commands, TellStory)]


def deeds(commands: list[SchedulerCommand]) -> list[SchedulerCommand]:
    """Without stories and load: what changes the world."""
    return [command for command in commands if not isinstance(command, TellStory | PublishLoad)]


def jobs(commands: list[SchedulerCommand], kind: type[C]) -> list[C]:
    return [command.job for command in of(commands, Place) if isinstance(command.job, kind)]


class Driver:
    """Speaks to one core in short words. `now` moves only by `pass_time` and `tick(after)`."""

    def __init__(self, *, elected: bool = True, **settings: object) -> None:
        self.core = SchedulerCore(SchedulerSettings(**settings))  # type: ignore[arg-type]
        self.now = 100.0
        self.counters: dict[WorkerRef, int] = {}
        self.seen: dict[WorkerRef, JobSeq] = {}
        if elected:
            self.send(Elected(1))

    def send(self, event: SchedulerEvent) -> list[SchedulerCommand]:
        commands = self.core.handle(event, self.now)
        self.core.check()
        for place in of(commands, Place):
            self.seen[place.worker] = max(place.job.seq, self.seen.get(place.worker, JobSeq(0, 0)))
        return commands

    def tick(self, after: float = 0.0) -> list[SchedulerCommand]:
        self.now += after
        return self.send(Tick())

    def join(self, name: str, profile: Profile = FAST, incarnation: str = "1", **more: object) -> list[SchedulerCommand]:
        return self.send(Joined(info(name, profile, incarnation, **more)))  # type: ignore[arg-type]

    def known(
        self, name: str, phase: Phase = Phase.QUEUED, attempt: int = 1, owner: WorkerRef | None = None, **more: object
    ) -> list[SchedulerCommand]:
        of_record = {key: more.pop(key) for key in ("cancel_asked", "crashes", "num_tokens") if key in more}
        wanted = submission(name, **more)  # type: ignore[arg-type]
        return self.send(Known(record(wanted, phase, attempt, owner, **of_record)))  # type: ignore[arg-type]

    def report(
        self,
        worker: WorkerRef | str,
        *lists: OwnedState | AssistState | Returned,
        tokens: int = 0,
        blocks: int = 500,
        sequences: int = 16,
        seen: JobSeq | None = None,
        closed: tuple[str, ...] = (),
        state: WorkerState = WorkerState.READY,
        profile: Profile | None = None,
        counter: int | None = None,
    ) -> list[SchedulerCommand]:
        """By default it has accounted for every job that was placed with it, and has no token credit."""
        who = ref(worker) if isinstance(worker, str) else worker
        self.counters[who] = counter if counter is not None else self.counters.get(who, 0) + 1
        return self.send(
            Report(
                who,
                self.counters[who],
                state,
                self.seen.get(who, JobSeq(0, 0)) if seen is None else seen,
                Credit(tokens, blocks, sequences),
                tuple(entry for entry in lists if isinstance(entry, OwnedState)),
                tuple(entry for entry in lists if isinstance(entry, AssistState)),
                tuple(rid(name) for name in closed),
                tuple(entry for entry in lists if isinstance(entry, Returned)),
                profile,
            )
        )

    def answer(self, place: Place, status: WriteStatus = WriteStatus.DONE) -> list[SchedulerCommand]:
        return self.send(Placed(place.worker, place.job, status))

    def run(self, name: str, worker: str = "fast", **more: object) -> Assign:
        """Submits a request and has it placed with this worker, which must be free for nothing else."""
        self.known(name, **more)  # type: ignore[arg-type]
        commands = self.report(worker, tokens=512)
        (assign,) = jobs(commands, Assign)
        self.answer(of(commands, Place)[-1])
        assert assign.request_id == rid(name)
        return assign

    def move_on(self, name: str, next_index: int = 0) -> None:
        """Answers every step of a move that has begun."""
        (request,) = [r for r in self.requests() if r.request_id == rid(name)]
        attempt, tokens = request.attempt, request.submission.num_prompt + next_index
        self.send(MoveBegun(rid(name), attempt, WriteStatus.DONE))
        self.send(FenceRaised(rid(name), attempt + 1, FenceAnswer(WriteStatus.DONE, next_index)))
        self.send(Requeued(rid(name), attempt + 1, tokens, WriteStatus.DONE))

    def requests(self) -> list[LiveRequest]:
        leadership = self.core._leadership
        return [] if leadership is None else list(leadership.state.requests.values())

    def assisted(self, name: str, offered: int, *, n: int = 2000) -> AssistOrder:
        """Submits a request that the low-end `slow` has advanced to `offered`; `fast` is there and busy."""
        self.join("fast", FAST)
        self.join("slow", SLOW)
        self.report("fast", owned("else", num_tokens=5000), blocks=0)
        self.report("slow", tokens=512)
        commands = self.known(name, n=n)
        (order,) = jobs(commands, AssistOrder)
        self.answer(of(commands, Place)[0])
        self.report("slow", AssistState(order.assist, rid(name), offered, False), tokens=0, sequences=15)
        return order


def listed(order: AssistOrder, offered: int, *, stopped: bool = False) -> AssistState:
    return AssistState(AssistId(order.assist), order.request_id, offered, stopped)
