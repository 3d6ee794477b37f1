"""The worker's shell: reads streams, feeds the core, carries out what it commands. No decision is made here.

Threads: this event loop (the core lives here and nowhere else), the engine, the mover, the transport's progress, the output.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from shared.clock import Clock
from shared.errors import EngineError, FabricError, FabricUnavailable
from shared.fabric import Fabric
from shared.messages import Control, Drain, Job, Pull, PullRefused, Report, WorkerInfo, WorkerState
from shared.processes import cancel_all
from shared.storyteller import Storyteller
from shared.types import GRANULE_TOKENS, WorkerRef
from workers.core import WorkerCore
from workers.engine_thread import EngineThread
from workers.events import (
    AbandonPull,
    DropPeer,
    Emit,
    Launch,
    PeerLost,
    PullEnded,
    SendEnded,
    SendKv,
    SendReport,
    StartPull,
    TellStory,
    TellWorker,
    Tick,
    WorkerCommand,
    WorkerEvent,
)
from workers.link_probe import PROBE, LinkProbe, answer_to, is_refusal, is_trial
from workers.loading import job_event
from workers.mover import Mover
from workers.output import OutputCommand, OutputStage
from workers.reading import CONTROL_STREAM, JOBS_STREAM, Place
from workers.tickets import OPEN, Tickets
from workers.watchdog import Watchdog, end_at_once

log = logging.getLogger(__name__)

Watch = Callable[[Sequence[WorkerEvent], Sequence[WorkerCommand]], None]
"""Told of every event and what the core made of it, on the loop: quick, decides nothing, never raises."""


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """Seconds between the loop's habits."""

    tick_s: float = 0.05
    block_ms: int = 1000
    member_ttl_s: float = 15.0
    member_s: float = 2.0
    retry_s: float = 0.2
    drain_s: float = 30.0
    staging_bytes: int = 0
    """Of the transport's arena, by which trials of links are sized; 0: none are made."""
    step_limit_s: float = 0.0
    """An engine that does not come back from a step for so long hangs, and its worker ends itself; 0: it is waited for."""


class WorkerLoop:
    """Runs one worker until `drain` or cancellation. `attach` gives it the parts that call back into it."""

    def __init__(
        self,
        core: WorkerCore,
        fabric: Fabric,
        info: WorkerInfo,
        clock: Clock,
        settings: LoopSettings | None = None,
        tickets: Tickets = OPEN,
    ) -> None:
        self.core = core
        self.info = info
        self.watches: list[Watch] = []
        self._ref: WorkerRef = info.ref
        self._fabric = fabric
        self._clock = clock
        self._settings = settings or LoopSettings()
        self._tickets = tickets
        self._outbox: asyncio.Queue[Callable[[], Awaitable[object]]] = asyncio.Queue()
        self._stories = Storyteller(fabric, clock, str(info.ref))
        self._last_report: Report | None = None
        self._unsent: Report | None = None
        self._freed = asyncio.Event()
        self._drained = asyncio.Event()
        self._known_peers: set[WorkerRef] = set()
        self._missing_peers: set[WorkerRef] = set()
        granule_bytes = GRANULE_TOKENS * core.settings.kv_bytes_per_token
        self._probe = LinkProbe(info.ref, info.fingerprint, granule_bytes, self._settings.staging_bytes, self._carry_out)

    def attach(self, engine: EngineThread, mover: Mover, output: OutputStage) -> None:
        self._engine = engine
        self._mover = mover
        self._output = output
        self._watchdog = Watchdog(lambda: engine.calls, self._settings.step_limit_s, end_at_once)

    def from_thread(self, event: WorkerEvent) -> None:
        """An event from another thread."""
        if is_trial(event):
            self._loop.call_soon_threadsafe(self._trial_ended, event)
        else:
            self._loop.call_soon_threadsafe(self.feed, event)

    def tell_worker_from_thread(self, worker: WorkerRef, message: Control) -> None:
        self._loop.call_soon_threadsafe(self._send, lambda: self._fabric.tell_worker(worker, message))

    def feed(self, *events: WorkerEvent) -> None:
        """The one door to the core. What comes together is planned and reported once."""
        output: list[OutputCommand] = []
        commands = self.core.handle_all(events, self._clock.monotonic())
        for command in commands:
            if type(command) is Emit or isinstance(command, OutputCommand):
                output.append(command)
            else:
                self._carry_out(command)
        if output:
            self._output.put(output)
        for watch in self.watches:
            watch(events, commands)
        if self.core.readable_jobs > 0:
            self._freed.set()

    async def run(self) -> None:
        """Until drained. Parts must be attached; they are started and stopped here.

        Raises `EngineError` at the end of one that took itself out, because its engine failed again and again.
        """
        self._loop = asyncio.get_running_loop()
        self._output.start()
        self._engine.start()
        self._mover.start()
        await self._until_done(lambda: self._fabric.join(self.info, self._settings.member_ttl_s))
        habits = [self._read_control, self._read_jobs, self._send_outbox, self._tick, self._stay_member]
        tasks = [asyncio.create_task(habit(), name=habit.__name__) for habit in habits]
        stopped = asyncio.create_task(self._drained.wait())
        try:
            done, _ = await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopped}:
                task.result()
        finally:
            await self._leave(tasks)
        if self.core.broken:
            raise EngineError(
                f"{self._ref} gave back what it had and left: its engine failed again and again, last with: {self.core.broken}"
            )

    def drain(self) -> None:
        """Take nothing new, finish or hand back, then `run` returns. Call it on the loop."""
        self.feed(Drain(self._settings.drain_s))

    # -- commands

    def _carry_out(self, command: WorkerCommand) -> None:
        """All but what goes to the log."""
        match command:
            case Launch():
                self._engine.launch(command.plan)
            case StartPull() | AbandonPull() | SendKv() | DropPeer():
                if isinstance(command, StartPull):
                    self._known_peers.add(command.source)
                elif isinstance(command, SendKv):
                    self._known_peers.add(command.requester)
                self._mover.put(command)
            case TellWorker():
                self._send(lambda: self._fabric.tell_worker(command.worker, command.message))
            case SendReport():
                self._report(command.report)
            case TellStory():
                self._stories.add(command.request_id, command.what, command.data)

    def _report(self, report: Report) -> None:
        """The latest says all that earlier ones said, but for what was closed: one waits at a time, however slow the server is."""
        self._last_report = report
        waiting, self._unsent = self._unsent, report
        if waiting:
            self._unsent = replace(report, closed=waiting.closed + report.closed)
        else:
            self._send(self._send_report)
        if self.core.drained:
            self._drained.set()

    async def _send_report(self) -> None:
        report, self._unsent = self._unsent, None
        if report:
            await self._fabric.tell_scheduler(report)

    def _send(self, write: Callable[[], Awaitable[object]]) -> None:
        self._outbox.put_nowait(write)

    # -- habits

    async def _send_outbox(self) -> None:
        while True:
            write = await self._outbox.get()
            try:
                await write()
            except FabricUnavailable as error:
                # Messages are not kept for later: each is healed by a report, a deadline or an expiry.
                log.warning("a message was not sent: %s", error)

    async def _read_control(self) -> None:
        place = Place()
        while True:
            try:
                after = await place.after(lambda: self._newest(CONTROL_STREAM))
                messages = await self._fabric.read_control(self._ref, after, block_ms=self._settings.block_ms)
            except FabricError as error:
                log.warning("control cannot be read yet: %s", error)
                place.doubt()
                await asyncio.sleep(self._settings.retry_s)
                continue
            if messages:
                place.read(messages[-1][0])
                self.feed(*(message for _, message in messages if self._admits(message)))

    def _admits(self, message: Control) -> bool:
        """A pull without a valid ticket is refused here: the core never hears of it, nor of trials."""
        if is_refusal(message):
            self._carry_out(AbandonPull(message.transfer, message.sender))
            return False
        if not isinstance(message, Pull):
            return True
        if why := self._tickets.complaint(message, self._ref):
            return self._refuse(message, why)
        if message.assist != PROBE:
            return True
        answer = answer_to(message, self.info.fingerprint, self._settings.staging_bytes, self.core.settings.kv_bytes_per_token)
        if answer is None:
            return self._refuse(message, "no trial of such a size or layout")
        self._carry_out(answer)
        return False

    def _trial_ended(self, event: PullEnded | SendEnded) -> None:
        probed = self._probe.ended(event, self._clock.monotonic()) if isinstance(event, PullEnded) else None
        if probed is not None:
            self.feed(probed)

    def _refuse(self, message: Pull, why: str) -> bool:
        log.warning("a pull by %s is refused: %s", message.requester, why, extra={"request": message.request_id})
        refusal = TellWorker(message.requester, PullRefused(message.transfer, self._ref, why))
        self._carry_out(refusal)
        for watch in self.watches:
            watch((), (refusal,))
        return False

    async def _read_jobs(self) -> None:
        """Only for free slots: what this worker cannot hold stays in its stream, where a leader can see it."""
        place = Place()
        while True:
            await self._freed.wait()
            if self.core.readable_jobs <= 0:
                self._freed.clear()
                continue
            try:
                after = await place.after(lambda: self._newest(JOBS_STREAM))
                jobs = await self._fabric.read_jobs(self._ref, after, count=self.core.readable_jobs, block_ms=self._settings.block_ms)
            except FabricError as error:
                log.warning("jobs cannot be read yet: %s", error)
                place.doubt()
                await asyncio.sleep(self._settings.retry_s)
                continue
            if jobs:
                place.read(jobs[-1][0])
                await self._until_done(partial(self._load, tuple(job for _, job in jobs)))

    async def _newest(self, stream: int) -> str:
        return (await self._fabric.newest(self._ref))[stream]

    async def _load(self, jobs: tuple[Job, ...]) -> None:
        """All of them in one round trip: a burst that is loaded one by one is taken for lost before its end is reached."""
        logs = await self._fabric.load_logs(tuple(job.request_id for job in jobs))
        pairs = zip(jobs, logs, strict=True)
        self.feed(*(job_event(job, found.head, found.entries) if found else job_event(job, None, ()) for job, found in pairs))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._settings.tick_s)
            self._watchdog.look(self._clock.monotonic())
            self.feed(Tick())
            await self._stories.flush()

    async def _stay_member(self) -> None:
        while True:
            await asyncio.sleep(self._settings.member_s)
            try:
                await self._fabric.join(self.info, self._settings.member_ttl_s)
                members = await self._fabric.members()
            except FabricUnavailable as error:
                log.warning("membership cannot be renewed yet: %s", error)
                continue
            self._notice_lost_peers({member.ref for member in members})
            self._probe.look(members, self._clock.monotonic())

    def _notice_lost_peers(self, members: set[WorkerRef]) -> None:
        """Two absences in a row: a clock step of the server lapses every member once, and each renews itself within a round."""
        absent = self._known_peers - members
        for peer in absent & self._missing_peers:
            self._known_peers.discard(peer)
            self.feed(PeerLost(peer))
        self._missing_peers = absent

    async def _until_done(self, step: Callable[[], Awaitable[object]]) -> None:
        while True:
            try:
                await step()
                return
            except FabricUnavailable as error:
                log.warning("the server is away: %s", error)
                await asyncio.sleep(self._settings.retry_s)

    async def _leave(self, tasks: list[asyncio.Task[None]]) -> None:
        """The written sequence: steps end, transfers end, logs are written, the last word goes out, membership ends."""
        await cancel_all(tasks)
        await asyncio.to_thread(self._engine.stop)
        await asyncio.to_thread(self._mover.stop)
        await asyncio.to_thread(self._output.stop)
        try:
            while not self._outbox.empty():
                await self._outbox.get_nowait()()
            await self._stories.flush()
            if self._last_report:
                farewell = replace(self._last_report, counter=self._last_report.counter + 1, state=WorkerState.LEFT)
                await self._fabric.tell_scheduler(farewell)
            await self._fabric.leave(self._ref)
        except FabricUnavailable as error:
            log.warning("left without saying goodbye: %s", error)
