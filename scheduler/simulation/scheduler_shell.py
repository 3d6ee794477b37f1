"""A scheduler process: what `scheduler/loop.py` does, step by step under the virtual clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from scheduler.core import SchedulerCore
from scheduler.events import (
    Deposed,
    Elected,
    Forget,
    Joined,
    Known,
    Left,
    Place,
    Reconnected,
    RecordClosed,
    Reread,
    SchedulerCommand,
    SchedulerEvent,
    TellStory,
    Tick,
)
from scheduler.simulation.process import LATENCY_S, Process, Reader
from scheduler.simulation.scheduler_writes import Write, write_of
from scheduler.simulation.steps import MESSAGE_STEPS, Step
from shared.fabric import Record, WriteStatus
from shared.messages import PoolEvent, Report, Submission, WorkerInfo, WorkerState
from shared.types import RequestId, WorkerRef

if TYPE_CHECKING:
    from scheduler.simulation.world import World

T = TypeVar("T")

LEASE_S = 3.0
RENEW_S = 0.8
TICK_S = 0.5
"""Rarer than in production, where it costs nothing: every decision is made at an event."""
RETRY_S = 0.2


class SchedulerShell(Process):
    """Stands by until it holds the lease, then leads until it loses it."""

    def __init__(self, world: World, name: str, core: SchedulerCore) -> None:
        super().__init__(world, name)
        self.core = core
        self.epoch = 0
        """The epoch it believes to lead under; 0: it stands by."""
        self._members: set[WorkerRef] = set()
        self._commands: deque[SchedulerCommand] = deque()
        self._busy = False
        self._events: Reader[PoolEvent] | None = None
        self._submissions: Reader[Submission] | None = None
        self._reign = 0
        self._losses = 0
        """How often the server had lost its last writes when this reign began: a real one has another name after a restart."""

    def start(self) -> None:
        self._stand_by()

    # -- the lease

    def _stand_by(self) -> None:
        again = partial(self.after, RENEW_S, self._stand_by)
        lead = partial(self.world.fabric.lead, self.name, LEASE_S)
        self.write(Step.WRITE_LEAD, lead, lambda epoch: self._begin(epoch) if epoch else again(), again)

    def _begin(self, epoch: int) -> None:
        self.epoch = epoch
        self._reign += 1
        self._losses = self.world.server.losses
        self.tell("leads under epoch", epoch)
        self.world.oracle.elected(self, epoch)
        self.moment(Step.SCHEDULER_ELECTED, self._rebuild)

    def _rebuild(self) -> None:
        """The tip of the events first: older news is in the records, or comes again with the next reports."""
        self._in_reign(lambda: self.ask(self.world.fabric.newest_event, lambda tip: self._meet_members(tip), self._depose))()

    def _meet_members(self, tip: str) -> None:
        self._members.clear()
        self.feed(Elected(self.epoch))
        self.ask(self.world.fabric.members, lambda infos: self._meet_requests(tip, infos), self._depose)

    def _meet_requests(self, tip: str, infos: tuple[WorkerInfo, ...]) -> None:
        self._joined(infos)
        fabric = self.world.fabric
        self.ask(lambda: fabric.read_submissions("0-0", count=100_000), lambda found: self._lead(tip, found), self._depose)

    def _lead(self, tip: str, found: tuple[tuple[str, Submission], ...]) -> None:
        for _, submission in found:
            self._learn(submission.request_id)
        fabric = self.world.fabric
        self._events = Reader(self, fabric.read_events, lambda _, event: self._on_pool_event(event), lambda m: MESSAGE_STEPS[type(m)], tip)
        after = found[-1][0] if found else "0-0"
        self._submissions = Reader(
            self,
            fabric.read_submissions,
            lambda _, sub: self._learn(sub.request_id),
            lambda m: Step.MESSAGE_SUBMISSION,
            after,
            in_order=True,
        )
        self.wake_readers()
        self._later(TICK_S, self._tick)
        self._later(RENEW_S, self._renew)
        self._later(RENEW_S, self._watch_members)

    def _in_reign(self, action: Callable[[], None]) -> Callable[[], None]:
        """`action`, unless this reign has ended by then."""
        reign = self._reign
        return lambda: action() if self.epoch and reign == self._reign else None

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        self.after(seconds, self._in_reign(action))

    def _renew(self) -> None:
        def answered(epoch: int) -> None:
            if epoch != self.epoch:
                self._depose()
            else:
                self._later(RENEW_S, self._renew)

        def failed() -> None:
            self.feed(Reconnected())
            self._later(RETRY_S, self._renew)

        lead = partial(self.world.fabric.lead, self.name, LEASE_S)
        write = partial(self.write, Step.WRITE_LEAD, lead, self._reigning(answered), self._in_reign(failed))
        self.moment(Step.SCHEDULER_RENEWING, self._in_reign(write))

    def _reigning(self, answered: Callable[[T], None]) -> Callable[[T], None]:
        reign = self._reign
        return lambda answer: answered(answer) if self.epoch and reign == self._reign else None

    def _depose(self) -> None:
        self.tell("is deposed from", self.epoch)
        self.epoch = 0
        for reader in (self._events, self._submissions):
            if reader:
                reader.close()
        self._events = self._submissions = None
        self._commands.clear()
        self._busy = False
        self.core.handle(Deposed(), self.world.now)
        self.after(RENEW_S, self._stand_by)

    def back(self) -> None:
        """The server is there again after it was away; perhaps it has forgotten what this leader believes."""
        lost = self.world.server.losses > self._losses
        self.after(2 * LATENCY_S, self._in_reign(self._depose if lost else lambda: self.feed(Reconnected())))

    # -- events in

    def feed(self, event: SchedulerEvent) -> None:
        """The one door to the core."""
        if not isinstance(event, (Tick, Report)):
            self.tell("hears", event)
        commands = self.core.handle(event, self.world.now)
        if commands or not isinstance(event, Tick):
            self.world.oracle.scheduler_moved(self)
        self._commands.extend(commands)
        self._next()

    def wake_readers(self) -> None:
        for reader in (self._events, self._submissions):
            if reader:
                reader.wake()

    def _on_pool_event(self, event: PoolEvent) -> None:
        if isinstance(event, Report):
            if event.state is WorkerState.LEFT:
                self._members.discard(event.ref)
                self.feed(Left(event.ref))
                return
            if event.ref not in self._members:
                self._read_members(self._in_reign(lambda: self.feed(event)))
                return
        self.feed(event)

    def _learn(self, request_id: RequestId, *, told_if_missing: bool = False) -> None:
        def known(record: Record | None) -> None:
            if record is not None:
                age_s = max(0.0, self.world.now - record.submission.created_ms / 1000)
                self.feed(Known(record, age_s))
            elif told_if_missing:
                self.feed(RecordClosed(request_id, WriteStatus.MISSING))

        again = partial(self._later, RETRY_S, partial(self._learn, request_id, told_if_missing=told_if_missing))
        self.ask(partial(self.world.fabric.record, request_id), self._reigning(known), self._in_reign(again))

    def _read_members(self, then: Callable[[], None]) -> None:
        def met(infos: tuple[WorkerInfo, ...]) -> None:
            self._joined(infos)
            then()

        self.ask(self.world.fabric.members, self._reigning(met), self._in_reign(then))

    def _joined(self, infos: tuple[WorkerInfo, ...]) -> None:
        for info in infos:
            if info.ref not in self._members:
                self._members.add(info.ref)
                self.feed(Joined(info))

    def _watch_members(self) -> None:
        self._read_members(lambda: None)
        self._later(RENEW_S, self._watch_members)

    def _tick(self) -> None:
        self.feed(Tick())
        self._later(TICK_S, self._tick)

    # -- commands out

    def _next(self) -> None:
        """One at a time: jobs of one worker must reach its stream in the order of their numbers."""
        while self._commands and not self._busy and self.epoch:
            command = self._commands.popleft()
            if isinstance(command, TellStory):
                self.tell(f"says of {command.request_id}: {command.what}", command.data)
                continue
            self._busy = True
            self.tell("commands", command)
            if isinstance(command, Place):
                self.moment(Step.SCHEDULER_BEFORE_PLACE, self._in_reign(partial(self._carry_out, command)))
            else:
                self._carry_out(command)

    def _done(self) -> None:
        self._busy = False
        self._next()

    def _not_done(self) -> None:
        self._later(RETRY_S, self._done)

    def _carry_out(self, command: SchedulerCommand) -> None:
        if isinstance(command, Reread):
            self._learn(command.request_id, told_if_missing=True)
            self._done()
            return
        if isinstance(command, Forget):
            self._members.discard(command.ref)
        self._send(write_of(command, self.world, self.epoch))

    def _send(self, write: Write) -> None:
        def answered(answer: Any) -> None:
            if write.event is not None:
                self.feed(write.event(answer))
            self._done()

        def met(answer: Any) -> None:
            heard = partial(self._reigning(answered), answer)
            if write.moment is None:
                heard()
            else:
                self.moment(write.moment, heard)

        self.write(write.step, write.effect, met, self._in_reign(self._not_done))
