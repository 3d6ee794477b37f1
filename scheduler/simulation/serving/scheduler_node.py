"""The simulated scheduler: the real core, its writes answered at once but for the way through the message server."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from scheduler.core import SchedulerCore
from scheduler.events import Command, Elected, Joined, Known, Place, Placed, PublishLoad, SchedulerCommand, SchedulerEvent, TellStory, Tick
from scheduler.settings import SchedulerSettings
from shared.fabric import Record, WriteStatus
from shared.messages import Assign, Submission
from shared.types import NO_GATEWAY, Phase

if TYPE_CHECKING:
    from scheduler.simulation.serving.world import ServingWorld

TICK_S = 0.1
EPOCH = 1


class SchedulerNode:
    def __init__(self, world: ServingWorld, settings: SchedulerSettings) -> None:
        self._world, self._agenda = world, world.agenda
        self._core = SchedulerCore(settings)
        self.decisions = 0

    def start(self) -> None:
        self.feed(Elected(EPOCH))
        for worker in self._world.workers:
            self.feed(Joined(worker.info))
        self._tick()

    def _tick(self) -> None:
        self.feed(Tick())
        self._agenda.after(TICK_S, self._tick)

    def submitted(self, submission: Submission) -> None:
        record = Record(submission.request_id, Phase.QUEUED, 1, None, False, 0, submission, NO_GATEWAY, submission.num_prompt)
        self.feed(Known(record))

    def feed(self, event: SchedulerEvent) -> None:
        for command in self._core.handle(event, self._agenda.now):
            self._carry_out(command)

    def _carry_out(self, command: SchedulerCommand) -> None:
        match command:
            case Place(worker, job):
                self.decisions += 1
                if isinstance(job, Assign):
                    self._world.assigned(job, worker)
                self._agenda.after(self._world.plan.message_s, partial(self._world.worker(worker).take_job, job))
                self._agenda.after(self._world.plan.message_s, partial(self.feed, Placed(worker, job, WriteStatus.DONE)))
            case Command(worker, message):
                self._world.tell_worker(worker, message)
            case PublishLoad():
                self._world.load_published(command)
            case TellStory():
                pass
            case _:
                raise AssertionError(f"without faults nobody should {command}")

    def __repr__(self) -> str:
        return repr(self._core)
