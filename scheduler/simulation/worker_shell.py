"""A worker process: what `workers/loop.py`, the engine's thread, the mover's and the output's do, under the virtual clock.

The core, the output book, the mover, the staging arena and the engine are the real ones; only their threads are not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, ParamSpec

from scheduler.simulation.kv_link import SimTransport
from scheduler.simulation.process import Process, Reader
from scheduler.simulation.steps import MESSAGE_STEPS, Step
from shared.errors import EngineError
from shared.fabric import LoggedEntry, LogHead, WriteStatus
from shared.messages import Assign, Control, Drain, Job, Report, WorkerInfo
from shared.types import Phase, WorkerRef
from workers.core import WorkerCore
from workers.engine import Engine, StepPlan
from workers.events import (
    AbandonPull,
    DropOutput,
    DropPeer,
    Emit,
    EndRequest,
    Launch,
    OpenOutput,
    PeerLost,
    PullEnded,
    SendEnded,
    SendKv,
    SendReport,
    StartPull,
    StepDone,
    StepFailed,
    TellStory,
    TellWorker,
    Tick,
    WorkerCommand,
    WorkerEvent,
)
from workers.loading import job_event
from workers.mover import Mover
from workers.output import Append, OutputBook, OutputCommand
from workers.reading import CONTROL_STREAM, JOBS_STREAM
from workers.step_shape import shape_of

if TYPE_CHECKING:
    from scheduler.simulation.world import World

TICK_S = 0.4
"""Rarer than in production, where it costs nothing."""
MEMBER_TTL_S = 15.0
MEMBER_S = 2.0
RETRY_S = 0.2
THREAD_S = 0.0002
"""From one thread of a worker to the next."""

P = ParamSpec("P")


class SimMover(Mover):
    """The real mover; its thread is the virtual clock."""

    process: WorkerShell

    def _later(self, step: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        self.process.after(THREAD_S, lambda: step(*args, **kwargs))


class WorkerShell(Process):
    """One incarnation."""

    def __init__(self, world: World, info: WorkerInfo, core: WorkerCore, engine: Engine, book: OutputBook) -> None:
        super().__init__(world, str(info.ref))
        self.info = info
        self.ref: WorkerRef = info.ref
        self.core = core
        self.engine = engine
        self._book = book
        self._plans: deque[StepPlan] = deque()
        self._outputs: list[OutputCommand] = []
        self._writing = False
        self._jobs: deque[Job] = deque()
        self._loading = False
        self._jobs_wait = False
        self._leaving = False
        self._known_peers: set[WorkerRef] = set()
        self._missing_peers: set[WorkerRef] = set()
        fabric = world.fabric
        self.control: Reader[Control] = Reader(
            self,
            lambda after: fabric.read_control(self.ref, after),
            lambda _, m: self._on_control(m),
            lambda m: MESSAGE_STEPS[type(m)],
            newest=lambda: fabric.newest(self.ref)[CONTROL_STREAM],
        )
        self.jobs: Reader[Job] = Reader(
            self,
            self._read_jobs,
            lambda _, m: self._on_job(m),
            lambda m: MESSAGE_STEPS[type(m)],
            newest=lambda: fabric.newest(self.ref)[JOBS_STREAM],
        )

    def connect(self, transport: SimTransport) -> None:
        self.transport = transport
        self._mover = SimMover(self.ref, self.engine, transport, self._tell_worker, self._moved)
        self._mover.process = self
        self._mover.start()

    def start(self) -> None:
        join = partial(self.world.fabric.join, self.info, MEMBER_TTL_S)
        self.write(Step.WRITE_JOIN, join, lambda _: self._joined(), lambda: self.after(RETRY_S, self.start))

    def _joined(self) -> None:
        self.tell("joins", self.info.device)
        self.every(TICK_S, self._tick)
        self.every(MEMBER_S, self._stay_member)
        self.control.wake()
        self.jobs.wake()

    def kill(self) -> None:
        super().kill()
        self.transport.close()

    # -- events in

    def feed(self, event: WorkerEvent) -> None:
        """The one door to the core."""
        if not self.alive:
            return
        if not isinstance(event, Tick):
            self.tell("hears", event)
        commands = self.core.handle(event, self.world.now)
        if commands or not isinstance(event, Tick):
            self.world.oracle.worker_moved(self)
        for command in commands:
            self._carry_out(command)
        if self._jobs_wait and self.core.readable_jobs > 0:
            self._jobs_wait = False
            self.jobs.wake()

    def _tick(self) -> None:
        self.feed(Tick())

    def _on_control(self, message: Control) -> None:
        if isinstance(message, Drain):
            self.moment(Step.WORKER_DRAINING, lambda: self.feed(message))
        else:
            self.feed(message)

    def _read_jobs(self, after: str) -> tuple[tuple[str, Job], ...]:
        """Only for free slots: what this worker cannot hold stays in its stream, where a leader can see it."""
        free = self.core.readable_jobs - len(self._jobs)
        self._jobs_wait = True
        return self.world.fabric.read_jobs(self.ref, after, count=free) if free > 0 else ()

    def _on_job(self, job: Job) -> None:
        self._jobs.append(job)
        self._load_next()

    def _load_next(self) -> None:
        if self._loading or not self._jobs:
            return
        self._loading = True
        job = self._jobs[0]
        fabric = self.world.fabric
        self.ask(
            lambda: (fabric.head(job.request_id), fabric.read_log(job.request_id)),
            lambda answer: self._loaded(job, *answer),
            lambda: self.after(RETRY_S, self._load_again),
        )

    def _load_again(self) -> None:
        self._loading = False
        self._load_next()

    def _loaded(self, job: Job, head: LogHead | None, logged: tuple[LoggedEntry, ...]) -> None:
        self._jobs.popleft()
        self._loading = False
        step = Step.WORKER_GOT_ASSIGN if isinstance(job, Assign) else Step.WORKER_GOT_ORDER
        self.moment(step, lambda: self.feed(job_event(job, head, [line.entry for line in logged])))
        self.run(self._load_next)

    def _stay_member(self) -> None:
        self.write(Step.WRITE_JOIN, self._join, lambda infos: self._notice_lost_peers({info.ref for info in infos}))

    def _join(self) -> tuple[WorkerInfo, ...]:
        self.world.fabric.join(self.info, MEMBER_TTL_S)
        return self.world.fabric.members()

    def _notice_lost_peers(self, members: set[WorkerRef]) -> None:
        absent = self._known_peers - members
        for peer in sorted(absent & self._missing_peers):
            self._known_peers.discard(peer)
            self.feed(PeerLost(peer))
        self._missing_peers = absent

    # -- commands out

    def _carry_out(self, command: WorkerCommand) -> None:
        if not isinstance(command, (SendReport, Launch, TellStory, Emit)):
            self.tell("commands", command)
        match command:
            case Launch(plan):
                self._launch(plan)
            case OpenOutput() | Emit() | EndRequest() | DropOutput():
                if isinstance(command, OpenOutput):
                    self.world.oracle.opened(self, command.spec.request_id, command.attempt)
                self._put(command)
            case StartPull(source=peer):
                self._known_peers.add(peer)
                self.moment(Step.WORKER_BEFORE_PULL, lambda: self._mover.put(command))
            case SendKv(requester=peer):
                self._known_peers.add(peer)
                self._mover.put(command)
            case AbandonPull() | DropPeer():
                self._mover.put(command)
            case TellWorker(worker, message):
                self._tell_worker(worker, message)
            case SendReport(report):
                self._report(report)
            case TellStory(request_id, what, data):
                self.tell(f"says of {request_id}: {what}", data)
                if what == "cached":
                    self.world.oracle.cached_tokens += int(str(data["tokens"]))
                if what == "preempted":
                    self.world.oracle.preempted(self, request_id)
                    self.moment(Step.WORKER_PREEMPTING, lambda: None)

    def _tell_worker(self, worker: WorkerRef, message: Control) -> None:
        self.write(Step.WRITE_TELL_WORKER, lambda: self.world.fabric.tell_worker(worker, message))

    def _report(self, report: Report) -> None:
        self.world.oracle.reported(self, report)
        offers = any(state.offered for state in report.assists)
        self.write(Step.WRITE_TELL_SCHEDULER, lambda: self.world.fabric.tell_scheduler(report))
        if offers:
            self.moment(Step.WORKER_AFTER_OFFER, lambda: None)
        if self.core.drained and not self._leaving:
            self._leaving = True
            self.after(0.05, self._leave)

    def _leave(self) -> None:
        """Drained: the last report has said goodbye."""
        self.write(Step.WRITE_LEAVE, lambda: self.world.fabric.leave(self.ref), lambda _: self._left(), self._left)

    def _left(self) -> None:
        self.tell("leaves in good order", None)
        self.world.oracle.worker_left(self)
        self.alive = False
        self.transport.close()
        self.world.left(self)

    def _moved(self, event: PullEnded | SendEnded) -> None:
        if isinstance(event, PullEnded):
            self.after(THREAD_S, lambda: self.moment(Step.WORKER_AFTER_PULL, lambda: self.feed(event)))
        else:
            self.after(THREAD_S, lambda: self.feed(event))

    # -- the engine's thread: launched at once, computed one after the other

    def _launch(self, plan: StepPlan) -> None:
        self.engine.launch(plan)
        self._plans.append(plan)
        if len(self._plans) == 1:
            self.run(self._step)

    def _step(self) -> None:
        seconds = self.info.profile.step_seconds(shape_of(self._plans[0]))
        self.moment(Step.WORKER_BEFORE_STEP, lambda: self.after(seconds, self._computed))

    def _computed(self) -> None:
        step = self._plans.popleft().step
        event: StepDone | StepFailed
        try:
            result = self.engine.collect()
            event = StepDone(result.step, result.token_ids, result.logprobs, result.seconds, result.top_logprobs)
        except EngineError as error:
            event = StepFailed(step, str(error))
        if self._plans:
            self.run(self._step)
        self.moment(Step.WORKER_AFTER_STEP, lambda: self.feed(event))

    # -- the output's thread

    def _put(self, command: OutputCommand) -> None:
        self._outputs.append(command)
        if not self._writing:
            self._writing = True
            self.after(THREAD_S, self._write_all)

    def _write_all(self) -> None:
        commands, self._outputs = self._outputs, []
        for command in commands:
            self._book.handle(command)
        self._tell_core()
        appends = self._book.take()
        if not appends:
            self._writing = bool(self._outputs)
            if self._writing:
                self.after(THREAD_S, self._write_all)
            return
        step = Step.WRITE_APPEND_END if any(append[3] for append in appends) else Step.WRITE_APPEND
        self.write(
            step,
            lambda: [self._append(append) for append in appends],
            lambda statuses: self.moment(Step.WORKER_APPENDED, lambda: self._appended(appends, statuses)),
            lambda: self.after(RETRY_S, self._write_all),
        )

    def _append(self, append: Append) -> WriteStatus:
        status = self.world.fabric.append(*append)
        self.world.oracle.appended(self, append, status)
        return status

    def _appended(self, appends: list[Append], statuses: list[WriteStatus]) -> None:
        answers = zip(appends, statuses, strict=True)
        self._close_next([append for append, status in answers if self._book.answered(append, status)])

    def _close_next(self, ended: list[Append]) -> None:
        if not ended:
            self._tell_core()
            self._write_all()
            return
        request_id, attempt, _, end = ended[0]
        phase = end.phase if end else Phase.FINISHED

        def closed(status: WriteStatus) -> None:
            self._book.closed(request_id, attempt)
            self._close_next(ended[1:])

        close = partial(self.world.fabric.close, request_id, attempt, phase)
        retry = partial(self.after, RETRY_S, self._write_all)
        self.moment(Step.WORKER_LAST_TOKEN, partial(self.write, Step.WRITE_CLOSE, close, closed, retry))

    def _tell_core(self) -> None:
        for event in self._book.events():
            self.after(THREAD_S, partial(self.feed, event))
