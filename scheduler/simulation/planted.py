"""Bugs planted on purpose, one each, to prove that the oracle finds them: each is a protocol that looks reasonable."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from scheduler.core import SchedulerCore
from scheduler.events import Place, Placed, SchedulerCommand
from scheduler.simulation.answer import Letters, letter
from scheduler.simulation.build import Parts, scheduler_settings
from scheduler.simulation.kv_link import SimTransport
from scheduler.simulation.scheduler_shell import SchedulerShell
from scheduler.simulation.scheduler_writes import Write
from scheduler.simulation.steps import Step
from scheduler.simulation.worker_shell import WorkerShell
from shared.clock import Clock
from shared.fabric import WriteStatus
from shared.fabric_model import FabricModel, Watcher
from shared.messages import Assign, Control, Job, LogEnd, LogTokens, ReleaseAssist, WorkerInfo
from shared.types import GRANULE_TOKENS, RequestId, TokenSpan, TransferId, WorkerRef
from workers.core import WorkerCore
from workers.core_state import Owned
from workers.events import Emit, StartPull, WorkerCommand
from workers.fake_engine import FakeEngine
from workers.output import OutputBook, OutputCommand
from workers.prefix_cache import Content
from workers.sequence import Sequence
from workers.settings import WorkerSettings
from workers.transport import TransferHeader

if TYPE_CHECKING:
    from scheduler.simulation.world import World

# --- no fence: an append is taken from whoever writes the next index ----------------------------------------------


class _NoFenceFabric(FabricModel):
    def append(self, request_id: RequestId, attempt: int, tokens: tuple[LogTokens, ...], end: LogEnd | None = None) -> WriteStatus:
        head = self.head(request_id)
        return super().append(request_id, head.fence if head else attempt, tokens, end)


class NoFence(Parts):
    def fabric(self, clock: Clock, watch: Watcher) -> FabricModel:
        return _NoFenceFabric(clock, watch=watch)


# --- hand-over split in two: the job first, the record in a second script ----------------------------------------


class _SplitFabric(FabricModel):
    def place_job(self, epoch: int, worker: WorkerRef, job: Assign) -> WriteStatus:
        if epoch < self._state.lease.epoch:
            return WriteStatus.SUPERSEDED
        self._add_job_once(worker, job)
        return WriteStatus.DONE

    def _add_job(self, worker: WorkerRef, job: Job) -> None:
        if not isinstance(job, Assign):
            super()._add_job(worker, job)

    def _add_job_once(self, worker: WorkerRef, job: Assign) -> None:
        known = self._state.jobs.get(worker)
        if known is None or job not in known.items:
            super()._add_job(worker, job)


class _SplitScheduler(SchedulerShell):
    def _carry_out(self, command: SchedulerCommand) -> None:
        fabric = self.world.fabric
        if not (isinstance(command, Place) and isinstance(command.job, Assign) and isinstance(fabric, _SplitFabric)):
            super()._carry_out(command)
            return
        epoch, worker, job = self.epoch, command.worker, command.job

        mark = Write(Step.WRITE_PLACE_ASSIGN, partial(fabric.place, epoch, worker, job), partial(Placed, worker, job))
        refused = Write(Step.WRITE_PLACE_ASSIGN, lambda: WriteStatus.SUPERSEDED, partial(Placed, worker, job))

        def added(status: WriteStatus) -> None:
            self._send(mark if status is WriteStatus.DONE else refused)

        between = self._reigning(added)
        add = partial(fabric.place_job, epoch, worker, job)
        self.write(Step.WRITE_PLACE_ASSIGN, add, lambda status: self._between(between, status), self._in_reign(self._not_done))

    def _between(self, then: Callable[[WriteStatus], None], status: WriteStatus) -> None:
        self.moment(Step.SCHEDULER_PLACED, partial(then, status))


class SplitHandOver(Parts):
    def fabric(self, clock: Clock, watch: Watcher) -> FabricModel:
        return _SplitFabric(clock, watch=watch)

    def scheduler(self, world: World, name: str) -> SchedulerShell:
        return _SplitScheduler(world, name, SchedulerCore(scheduler_settings(world.schedule.scenario)))


# --- a release behind a job: it is read only when there is room for a job ----------------------------------------


class _ReleaseBehindJobs(WorkerShell):
    def _on_control(self, message: Control) -> None:
        if isinstance(message, ReleaseAssist) and self.core.free_sequences == 0:
            self.after(0.05, lambda: self._on_control(message))
        else:
            super()._on_control(message)


class ReleaseBehindJob(Parts):
    def worker_shell(self, world: World, info: WorkerInfo, core: WorkerCore, engine: FakeEngine) -> WorkerShell:
        return _ReleaseBehindJobs(world, info, core, engine, OutputBook(Letters(), world.clock))


# --- a token is shown before it is logged ------------------------------------------------------------------------


class _ShowsFirst(WorkerShell):
    def _put(self, command: OutputCommand) -> None:
        super()._put(command)
        if isinstance(command, Emit):
            text = "".join(map(letter, command.token_ids))
            entry = LogTokens(command.choice, command.index, command.token_ids, text, command.logprobs, command.finish)
            for client in self.world.clients:
                if client.request_id == command.request_id and client.gateway:
                    client.show(client.position, entry)


class ShownBeforeLogged(Parts):
    def worker_shell(self, world: World, info: WorkerInfo, core: WorkerCore, engine: FakeEngine) -> WorkerShell:
        return _ShowsFirst(world, info, core, engine, OutputBook(Letters(), world.clock))


# --- received straight into blocks: no staging, no quarantine ----------------------------------------------------


class _NoStagingWorker(WorkerShell):
    """Remembers where each pull was to go."""

    pulls: dict[TransferId, StartPull]

    def _carry_out(self, command: WorkerCommand) -> None:
        if isinstance(command, StartPull):
            self.pulls[command.transfer] = command
        super()._carry_out(command)


class _NoStaging(SimTransport):
    shell: _NoStagingWorker

    def land(self, header: TransferHeader, data: bytes) -> None:
        pull = self.shell.pulls.get(header.transfer)
        per_token = self.shell.engine.kv.bytes_per_token
        tokens = len(data) // (GRANULE_TOKENS * per_token) * GRANULE_TOKENS
        if pull and tokens:
            span = TokenSpan(pull.span.start, pull.span.start + tokens)
            self.shell.engine.scatter(pull.blocks, span, memoryview(data)[: tokens * per_token])
        super().land(header, data)


class NoStaging(Parts):
    def worker_shell(self, world: World, info: WorkerInfo, core: WorkerCore, engine: FakeEngine) -> WorkerShell:
        shell = _NoStagingWorker(world, info, core, engine, OutputBook(Letters(), world.clock))
        shell.pulls = {}
        return shell

    def transport(self, shell: WorkerShell) -> SimTransport:
        transport = _NoStaging(shell, shell.ref, shell.world.wires, shell.info.profile)
        assert isinstance(shell, _NoStagingWorker)
        transport.shell = shell
        return transport


# --- prefixes without salt: one tenant is served another's blocks -------------------------------------------------


class _NoSalt(WorkerCore):
    def root_of(self, sequence: Sequence) -> Content:
        return self.blocks.root(self.settings.fingerprint, "")


class SharedTenants(Parts):
    def worker_core(self, settings: WorkerSettings) -> WorkerCore:
        return _NoSalt(settings)


# --- what is pulled can be found before it is verified ------------------------------------------------------------


class _SealsEarly(WorkerCore):
    def start_pull(self, owned: Owned) -> None:
        super().start_pull(owned)
        sequence, intake = owned.sequence, owned.intake
        assert intake is not None
        computed, sequence.num_computed = sequence.num_computed, intake.span.stop
        self.seal(sequence)
        sequence.num_computed = computed

    def check(self) -> None:
        """It cannot be trusted to check itself."""


class SealedBeforeVerified(Parts):
    def worker_core(self, settings: WorkerSettings) -> WorkerCore:
        return _SealsEarly(settings)
