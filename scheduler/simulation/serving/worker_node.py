"""A simulated worker: the real core, a device model instead of an engine, links instead of a transport."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from scheduler.simulation.serving.records import WorkerRecord
from scheduler.simulation.serving.roofline import Device
from scheduler.simulation.serving.shaped_steps import ShapedCore, ShapedPlan
from shared.messages import Assign, Control, Job, Pull, Report, WorkerInfo
from shared.types import TransferId, WorkerId, WorkerRef
from workers.engine import StepPlan
from workers.events import (
    AbandonPull,
    Assigned,
    Closed,
    DropOutput,
    DropPeer,
    Emit,
    EndRequest,
    Launch,
    OpenOutput,
    Ordered,
    PullEnded,
    SendEnded,
    SendKv,
    SendReport,
    StartPull,
    StepDone,
    TellStory,
    TellWorker,
    Tick,
    WorkerCommand,
    WorkerEvent,
)
from workers.settings import WorkerSettings

if TYPE_CHECKING:
    from scheduler.simulation.serving.world import ServingWorld

TICK_S = 0.1
OUTPUT_S = 0.0002
"""From a sampled token to its place in the log."""


class WorkerNode:
    def __init__(self, world: ServingWorld, info: WorkerInfo, settings: WorkerSettings, device: Device) -> None:
        self._world, self._agenda = world, world.agenda
        self.info, self.ref = info, info.ref
        self.record = WorkerRecord(info.ref.worker, info.total_blocks)
        self._core = ShapedCore(settings)
        self._device = device
        self._plans: deque[ShapedPlan] = deque()
        self._pulls: dict[TransferId, StartPull] = {}
        self._noted_at = 0.0

    def start(self) -> None:
        self._tick()

    def _tick(self) -> None:
        self.feed(Tick())
        self._agenda.after(TICK_S, self._tick)

    def feed(self, event: WorkerEvent) -> None:
        self._note_memory()
        seen_at = self._agenda.now + OUTPUT_S
        for command in self._core.handle(event, self._agenda.now):
            if type(command) is Emit and command.finish is None:
                self._world.emitted(command.request_id, len(command.token_ids), seen_at)
            else:
                self._carry_out(command)

    def take_job(self, job: Job) -> None:
        spec = self._world.spec(job.request_id)
        self.feed(Assigned(job, spec) if isinstance(job, Assign) else Ordered(job, spec))

    def take_control(self, message: Control) -> None:
        self.feed(message)

    def _note_memory(self) -> None:
        used = self.info.total_blocks - self._core.blocks.free_blocks
        self.record.kv_used += used * (self._agenda.now - self._noted_at)
        self._noted_at = self._agenda.now

    def _carry_out(self, command: WorkerCommand) -> None:
        match command:
            case Launch(plan):
                self._launch(plan)
            case Emit():
                self._agenda.after(OUTPUT_S, partial(self._emit, command))
            case SendReport(report):
                self._send_report(report)
            case StartPull():
                self._start_pull(command)
            case SendKv():
                self._send_kv(command)
            case TellWorker(worker, message):
                self._world.tell_worker(worker, message)
            case EndRequest(request_id, attempt):
                self._agenda.after(OUTPUT_S, partial(self.feed, Closed(request_id, attempt)))
            case AbandonPull(transfer):
                self._agenda.after(0.0, partial(self._end_pull, transfer, 0, "abandoned"))
            case TellStory(_, what):
                self.record.preemptions += what == "preempted"
            case OpenOutput() | DropOutput() | DropPeer():
                pass

    def _send_report(self, report: Report) -> None:
        self._world.tell_scheduler(report)

    # -- steps

    def _launch(self, plan: StepPlan) -> None:
        assert isinstance(plan, ShapedPlan)
        self._plans.append(plan)
        if len(self._plans) == 1:
            self._compute()

    def _compute(self) -> None:
        shape = self._plans[0].shape
        seconds = self._device.step_seconds(shape)
        self.record.busy_s += seconds
        self.record.steps += 1
        self.record.prefill_tokens += shape.prefill_tokens
        self.record.decode_tokens += shape.decodes
        self._agenda.after(seconds, partial(self._computed, seconds))

    def _computed(self, seconds: float) -> None:
        plan = self._plans.popleft()
        if self._plans:
            self._compute()
        count = len(plan.samples)
        self.feed(StepDone(plan.step, (1,) * count, (0.0,) * count, seconds))

    def _emit(self, command: Emit) -> None:
        """The last token of a request: those before it are noted at once, for nothing hangs on them."""
        self._world.emitted(command.request_id, len(command.token_ids), self._agenda.now)
        self._world.ended(command.request_id)
        self.feed(Closed(command.request_id, command.attempt))

    # -- KV

    def _start_pull(self, command: StartPull) -> None:
        self._pulls[command.transfer] = command
        address = str(self.ref).encode()
        pull = Pull(
            command.transfer,
            command.assist,
            command.request_id,
            command.attempt,
            command.span,
            self.ref,
            address,
            self.info.fingerprint,
        )
        self._world.tell_worker(command.source, pull)

    def _send_kv(self, command: SendKv) -> None:
        nbytes = len(command.span) * self._device.model.kv_bytes_per_token
        receiver = self._world.worker(command.requester)

        def arrive(at: float) -> None:
            self._agenda.at(at, partial(self.feed, SendEnded(command.transfer, command.requester)))
            self._agenda.at(at, partial(receiver._end_pull, command.transfer, nbytes, ""))

        self._world.links.send(self._agenda.now, self.ref, command.requester, nbytes, arrive)

    def _end_pull(self, transfer: TransferId, nbytes: int, error: str) -> None:
        pull = self._pulls.pop(transfer, None)
        if pull is None:
            return
        good = 0 if error else len(pull.span)
        self._world.pulled(pull.request_id, good)
        self.feed(PullEnded(transfer, good, nbytes, 0.0, error))

    def check(self) -> None:
        """Raises `AssertionError` if the core's books do not add up."""
        self._core.check()

    def __repr__(self) -> str:
        return repr(self._core)


def as_ref(name: str) -> WorkerRef:
    """The one incarnation of a simulated worker."""
    return WorkerRef(WorkerId(name), "1")
