"""The scheduler's shell: holds the lease, reads streams, feeds the core, carries out what it commands."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from scheduler.core import SchedulerCore
from scheduler.events import (
    BeginMove,
    Close,
    Command,
    Deposed,
    Elected,
    EndWritten,
    FenceRaised,
    Forget,
    Joined,
    Known,
    Left,
    MoveBegun,
    Place,
    Placed,
    PublishLoad,
    RaiseFence,
    Reconnected,
    RecordClosed,
    Requeue,
    Requeued,
    Reread,
    SchedulerCommand,
    SchedulerEvent,
    TellStory,
    Tick,
    WriteEnd,
)
from scheduler.retention import Retention
from shared.clock import Clock
from shared.errors import FabricError, FabricUnavailable
from shared.fabric import Fabric, WriteStatus
from shared.messages import LogEnd, PoolEvent, Report, Submission, WorkerState
from shared.processes import cancel_all
from shared.storyteller import Storyteller
from shared.types import MoveCause, RequestId, WorkerRef

log = logging.getLogger(__name__)

T = TypeVar("T")

KNOWN_AT_ONCE = 200
"""Waiting requests that a new leader reads and decides on between two chances to renew its lease."""

Watch = Callable[[SchedulerEvent, Sequence[SchedulerCommand], float], None]
"""Told of every event, what the core made of it and in how many seconds: quick, decides nothing, never raises."""


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """Seconds between the loop's habits."""

    name: str
    max_waiting: int = 10_000
    lease_s: float = 3.0
    renew_s: float = 0.5
    tick_s: float = 0.1
    held_up_s: float = 1.0
    block_ms: int = 500
    retry_s: float = 0.2
    retention_s: float = 600.0
    sweep_s: float = 1.0


class OtherServer(FabricError):
    """The server has another life than at the beginning of this reign: it may have lost what this leader believes."""


class SchedulerLoop:
    """Stands by until it holds the lease, then leads until it loses it."""

    def __init__(self, core: SchedulerCore, fabric: Fabric, clock: Clock, settings: LoopSettings) -> None:
        self.core = core
        self.watches: list[Watch] = []
        self._fabric = fabric
        self._clock = clock
        self._settings = settings
        self._epoch = 0
        self._server = ""
        """Its life when this reign began."""
        self._renewed = float("-inf")
        self._members: set[WorkerRef] = set()
        self._commands: asyncio.Queue[SchedulerCommand] = asyncio.Queue()
        self._retention = Retention(clock, settings.retention_s)
        self.watches.append(self._retention.watch)
        self._stories = Storyteller(fabric, clock, settings.name)

    async def run(self) -> None:
        """Until cancelled; gives the lease back, so that a standby need not wait for it to lapse."""
        try:
            while True:
                self._epoch = await self._until_leading()
                log.info("leading under epoch %d", self._epoch)
                try:
                    await self._lead()
                except FabricError as error:
                    log.warning("leading was interrupted: %s", error)
                finally:
                    self._retention.forget()
                    self.feed([Deposed()])
        finally:
            await self._resign()

    async def _until_leading(self) -> int:
        while True:
            try:
                if epoch := await self._fabric.lead(self._settings.name, self._settings.lease_s):
                    self._renewed = self._clock.monotonic()
                    return epoch
            except FabricError as error:
                log.warning("the lease cannot be asked for yet: %s", error)
            await asyncio.sleep(self._settings.renew_s)

    async def _lead(self) -> None:
        self._commands = asyncio.Queue()
        # From the beginning: a long backlog takes longer to read than the lease lasts, and who loses it begins anew.
        tasks = [asyncio.create_task(self._renew())]
        try:
            self._server = await self._fabric.server_life()
            # Older news is in the records, or comes again with the next reports. A pool's events, read, would outlast the lease.
            events_from = await self._fabric.newest_event()
            submissions_from = await self._rebuild()
            habits = [
                self._read_events(events_from),
                self._read_submissions(submissions_from),
                self._carry_out_all(),
                self._tick(),
                self._watch_members(),
                self._sweep(),
            ]
            tasks += [asyncio.create_task(habit) for habit in habits]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await cancel_all(tasks)

    # -- becoming leader

    async def _rebuild(self) -> str:
        self._members.clear()
        self.feed([Elected(self._epoch)])
        await self._read_members()
        after = "0-0"
        while submissions := await self._fabric.read_submissions(after, count=KNOWN_AT_ONCE):
            await self._learn([submission for _, submission in submissions], aged=True)
            after = submissions[-1][0]
        return after

    async def _learn(self, submissions: Sequence[Submission], *, aged: bool) -> None:
        """Only a new leader must ask the wall how much of a time limit has passed; for news it is nothing."""
        records = await self._fabric.records(tuple(one.request_id for one in submissions))
        now_ms = self._clock.wall_ms()
        ages = [max(0, now_ms - one.created_ms) / 1000 if aged else 0.0 for one in submissions]
        self.feed([Known(record, age_s) for record, age_s in zip(records, ages, strict=True) if record])

    async def _reread(self, request_id: RequestId) -> None:
        record = await self._fabric.record(request_id)
        self.feed([Known(record) if record else RecordClosed(request_id, WriteStatus.MISSING)])

    # -- events in

    def feed(self, events: Iterable[SchedulerEvent]) -> None:
        """The one door to the core."""
        now = self._clock.monotonic()
        for event in events:
            began = self._clock.monotonic()
            commands = self.core.handle(event, now)
            for watch in self.watches:
                watch(event, commands, self._clock.monotonic() - began)
            for command in commands:
                if isinstance(command, TellStory):
                    # Dated by the decision: behind the writes it would come after what a worker made of it.
                    self._stories.add(command.request_id, command.what, command.data)
                else:
                    self._commands.put_nowait(command)

    async def _read_events(self, after: str) -> None:
        while True:
            events = await self._through_outages(partial(self._fabric.read_events, after, block_ms=self._settings.block_ms))
            for entry_id, event in events:
                after = entry_id
                await self._on_pool_event(event)

    async def _on_pool_event(self, event: PoolEvent) -> None:
        if isinstance(event, Report):
            if event.state is WorkerState.LEFT:
                self._members.discard(event.ref)
                self.feed([Left(event.ref)])
                return
            if event.ref not in self._members:
                await self._read_members()
        self.feed([event])

    async def _read_submissions(self, after: str) -> None:
        while True:
            submissions = await self._through_outages(partial(self._fabric.read_submissions, after, block_ms=self._settings.block_ms))
            if submissions:
                after = submissions[-1][0]
                await self._learn([submission for _, submission in submissions], aged=False)

    async def _through_outages(self, read: Callable[[], Awaitable[T]]) -> T:
        """Repeats a read while the server is away; afterwards everybody gets a full liveness period again. Raises `OtherServer`."""
        away = False
        while True:
            try:
                answer = await read()
            except FabricUnavailable as error:
                log.warning("the server is away: %s", error)
                away = True
                await asyncio.sleep(self._settings.retry_s)
                continue
            if away:
                await self._know_server()
                self.feed([Reconnected()])
            return answer

    async def _know_server(self) -> None:
        """One that was restarted, or took another's place, may lack last writes: a leader that begins anew asks it for everything."""
        life = await self._fabric.server_life()
        if not life or life != self._server:
            raise OtherServer("the message server was restarted, or another has taken its place: everything is read anew")

    async def _read_members(self) -> None:
        for info in await self._fabric.members():
            if info.ref not in self._members:
                self._members.add(info.ref)
                self.feed([Joined(info)])

    async def _watch_members(self) -> None:
        while True:
            await asyncio.sleep(self._settings.renew_s)
            await self._through_outages(self._read_members)

    async def _tick(self) -> None:
        """Only a tick judges liveness. If this process itself was held up, reports are still unread: nobody is judged by that."""
        last = self._clock.monotonic()
        while True:
            await asyncio.sleep(self._settings.tick_s)
            now = self._clock.monotonic()
            if now - last > self._settings.held_up_s:
                log.warning("held up for %.1f s: everybody gets a full liveness period", now - last)
                self.feed([Reconnected()])
            last = now
            self.feed([Tick()])
            await self._stories.flush()

    async def _sweep(self) -> None:
        """What a sweep leaves, the server being away for one, lapses by itself."""
        while True:
            await asyncio.sleep(self._settings.sweep_s)
            if due := self._retention.due():
                with suppress(FabricUnavailable):
                    await self._fabric.sweep(due)

    async def _renew(self) -> None:
        """Returns when the lease is another's. While the server is away nobody can lead: every write would fail anyway."""
        while True:
            await asyncio.sleep(self._settings.renew_s)
            epoch = await self._through_outages(partial(self._fabric.lead, self._settings.name, self._settings.lease_s))
            if epoch != self._epoch:
                log.warning("deposed: epoch %d is not ours (%d)", epoch, self._epoch)
                return

    # -- commands out

    async def _carry_out_all(self) -> None:
        """One at a time: jobs of one worker must reach its stream in the order of their numbers."""
        while True:
            command = await self._commands.get()
            try:
                await self._carry_out(command)
            except FabricUnavailable as error:
                # The core asks again for every write whose answer never came.
                log.warning("%s was not carried out: %s", type(command).__name__, error)
                await asyncio.sleep(self._settings.retry_s)

    async def _carry_out(self, command: SchedulerCommand) -> None:
        fabric, epoch = self._fabric, self._epoch
        match command:
            case Place(worker, job):
                self.feed([Placed(worker, job, await fabric.place(epoch, worker, job))])
            case Command(worker, message):
                await fabric.command(epoch, worker, message)
            case BeginMove(request_id, attempt):
                self.feed([MoveBegun(request_id, attempt, await fabric.begin_move(epoch, request_id, attempt))])
            case RaiseFence(request_id, attempt):
                self.feed([FenceRaised(request_id, attempt, await fabric.raise_fence(request_id, attempt))])
            case Requeue(request_id, attempt, num_tokens, cause):
                crashed = cause is MoveCause.CRASH
                status = await fabric.requeue(epoch, request_id, attempt, num_tokens, crashed=crashed)
                self.feed([Requeued(request_id, attempt, num_tokens, status)])
            case WriteEnd(request_id, attempt, phase, error, code):
                end = LogEnd(phase, error, code, self._clock.wall_ms())
                self.feed([EndWritten(request_id, attempt, await fabric.append(request_id, attempt, (), end))])
            case Close(request_id, attempt, phase, dead_letter):
                closed = await fabric.close(request_id, attempt, phase, dead_letter=dead_letter)
                self.feed([RecordClosed(request_id, closed)])
            case Reread(request_id):
                await self._reread(request_id)
            case PublishLoad(waiting, predicted_wait_s, takes, kv_takes):
                await fabric.publish_load(epoch, waiting, self._settings.max_waiting, predicted_wait_s, takes, kv_takes)
            case Forget(ref):
                self._members.discard(ref)
                await fabric.leave(ref)

    async def _resign(self) -> None:
        try:
            await self._fabric.resign(self._settings.name)
        except FabricError as error:
            log.warning("the lease was not given back: %s", error)
