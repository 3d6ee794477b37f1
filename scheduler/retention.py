"""When an ended request is deleted: by the leader's monotonic clock, for nobody can set that."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from scheduler.events import RecordClosed, SchedulerCommand, SchedulerEvent
from shared.clock import Clock
from shared.fabric import WriteStatus
from shared.messages import Report
from shared.types import RequestId

AT_ONCE = 1000
"""Requests that one sweep deletes, so that it keeps no lease from being renewed."""
LATER_S = 2.0
"""The server counts whole seconds, and a report tells of an end some time after it."""


class Retention:
    """Hears in one reign what ends, and names it once its retention is over. What ended before it lapses by the server's clock, later."""

    def __init__(self, clock: Clock, retention_s: float) -> None:
        self._clock = clock
        self._keep_s = retention_s + LATER_S
        self._ended: dict[RequestId, float] = {}
        """When it was heard of first, in that order."""

    def __repr__(self) -> str:
        return f"<Retention [{len(self._ended)} ended]>"

    def watch(self, event: SchedulerEvent, commands: Sequence[SchedulerCommand], spent_s: float) -> None:
        """For the loop's `watches`."""
        if isinstance(event, Report):
            for request_id in event.closed:
                self._ended.setdefault(request_id, self._clock.monotonic())
        elif isinstance(event, RecordClosed) and event.status in (WriteStatus.DONE, WriteStatus.ENDED):
            self._ended.setdefault(event.request_id, self._clock.monotonic())

    def due(self) -> tuple[RequestId, ...]:
        """Those whose retention is over, each once, at most `AT_ONCE`."""
        before = self._clock.monotonic() - self._keep_s
        due = []
        for request_id, ended in islice(self._ended.items(), AT_ONCE):
            if ended > before:
                break
            due.append(request_id)
        for request_id in due:
            del self._ended[request_id]
        return tuple(due)

    def forget(self) -> None:
        """Another leads: what it sweeps is its own business."""
        self._ended.clear()
