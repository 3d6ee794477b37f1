"""Head starts are configured and do not happen: low-ends that help nobody are paid for, and every answer is right. Somebody must say so.

Two ways to be of no use are seen from here: a low-end whose KV nobody can take, and head starts that are ordered again and again and never
taken. The third, pulls that bring nothing, is seen by the workers that pull (`workers/handover_alarm.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from scheduler.events import Deposed, Forget, Joined, Left, Placed, SchedulerCommand, SchedulerEvent, Tick
from shared.clock import Clock
from shared.fabric import WriteStatus
from shared.messages import Assign, AssistOrder, Source, WorkerInfo
from shared.types import WorkerRef

log = logging.getLogger(__name__)

LOW = "low"
ALONE_S = 10.0
"""A low-end may wait so long for somebody to take its KV: pools start in any order."""
UNTAKEN = 50
"""Head starts ordered, one after the other, of which none was taken."""


class HandoverAlarm:
    """A watch of the scheduler's loop: says each finding once at level `error`, and counts it."""

    def __init__(self, clock: Clock, count: Callable[[str], None]) -> None:
        self._clock = clock
        self._count = count
        self._members: dict[WorkerRef, tuple[WorkerInfo, float]] = {}
        self._told: set[WorkerRef] = set()
        self._untaken = 0

    def watch(self, event: SchedulerEvent, commands: Sequence[SchedulerCommand], _: float) -> None:
        match event:
            case Joined(info):
                self._members[info.ref] = (info, self._clock.monotonic())
            case Left(ref):
                self._members.pop(ref, None)
            case Placed(_, AssistOrder(), WriteStatus.DONE):
                self._ordered()
            case Placed(_, Assign(source=Source()), WriteStatus.DONE):
                self._untaken = 0
            case Tick():
                self._look(self._clock.monotonic())
            case Deposed():
                self._members.clear()
                self._untaken = 0
        for command in commands:
            if isinstance(command, Forget):
                self._members.pop(command.ref, None)

    def _ordered(self) -> None:
        self._untaken += 1
        if self._untaken == UNTAKEN:
            self._count("not_taken")
            log.error(
                "%d head starts were ordered one after the other and none was taken: the low-ends only cost; "
                "see `headstart:cut_tokens` and `explain` of a request, and give them another device or none",
                UNTAKEN,
            )

    def _look(self, now: float) -> None:
        others = {info.fingerprint for info, _ in self._members.values() if info.role != LOW}
        for info, since in self._members.values():
            if info.role == LOW and info.fingerprint not in others and now - since >= ALONE_S and info.ref not in self._told:
                self._told.add(info.ref)
                self._count("no_partner")
                log.error(
                    "%s is a low-end, and no other worker of the pool has its KV layout: it can give no head start; "
                    "start both with the same weights, position settings and release",
                    info.ref,
                )
