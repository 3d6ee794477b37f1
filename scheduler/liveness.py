"""Which incarnations are silent for too long, on the leader's monotonic clock."""

from __future__ import annotations

from scheduler.alarms import Alarms
from shared.types import WorkerRef


class Liveness:
    """One period per incarnation. Who judges by anything else (server time, wall clocks) fails over everybody after a clock step."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._alarms: Alarms[WorkerRef] = Alarms()

    def __contains__(self, ref: WorkerRef) -> bool:
        return ref in self._alarms

    def expect(self, ref: WorkerRef, now: float) -> None:
        """From now on it has to speak; a period that already runs goes on."""
        if ref not in self._alarms:
            self._alarms.set(ref, now + self._period_s)

    def heard(self, ref: WorkerRef, now: float) -> None:
        self._alarms.set(ref, now + self._period_s)

    def forget(self, ref: WorkerRef) -> None:
        self._alarms.clear(ref)

    def restart(self, now: float) -> None:
        """Nobody could be heard: one full period for everybody."""
        self._alarms.put_off(self._alarms, now + self._period_s)

    def silent(self, now: float) -> list[WorkerRef]:
        """Those whose period has run out, each named once."""
        return self._alarms.due(now)
