"""One UCX worker for one incarnation of one peer in one direction, and the operations that fly on it."""

from __future__ import annotations

import time
from collections.abc import Iterable

from workers.staging import Region
from workers.ucx_binding import Context, Operation, Worker
from workers.ucx_staging import PinnedArena

LAND_S = 0.01
"""How often a link looks for operations that are done, beyond the ends of transfers."""
PATIENCE = 32
"""Calls without progress, a tenth of a microsecond each, before a burst ends: the peer is filling the FIFO just now."""
BURST_S = 0.001
"""The longest that one visit moves bytes with the GIL held, before others get their turn."""


_NOWHERE = memoryview(b"")


class Link:
    """Every operation on the worker goes through `watch`, which pins its region until it is done or the worker is gone."""

    def __init__(self, context: Context, staging: PinnedArena) -> None:
        self.worker: Worker = context.worker()
        self._staging = staging
        self._flights: dict[Operation, Region | None] = {}
        self.last_moved = time.monotonic()
        self.last_landed = 0.0
        self.late_since: float | None = None

    def watch(self, operation: Operation, region: Region | None = None) -> Operation:
        if region is not None:
            self._staging.pin(region)
        self._flights[operation] = region
        return operation

    @property
    def flying(self) -> int:
        return len(self._flights)

    def burst(self) -> None:
        """Moves bytes while there are any, for `BURST_S` or little more."""
        progress, still = self.worker.progress, 0
        if not progress():
            return
        now = time.monotonic()
        until = now + BURST_S
        while still < PATIENCE and now < until:
            for _ in range(16):
                still = 0 if progress() else still + 1
            now = time.monotonic()
        self.last_moved = now

    def land(self) -> None:
        """Lets go of all operations that are done."""
        self.let_go(list(self._flights))
        self.last_landed = time.monotonic()

    def let_go(self, operations: Iterable[Operation]) -> None:
        """Lets go of those that are done. For a transfer that is over: a look at every flight costs more than its visit."""
        for operation in operations:
            if operation.done():
                self._unpin(self._flights.pop(operation, None))

    def _unpin(self, region: Region | None) -> None:
        if region is not None:
            self._staging.unpin(region)

    def late(self, now: float) -> None:
        """Somebody gives up on bytes that may still come or go."""
        self.late_since = now

    def refuse_strays(self) -> None:
        """What came for nobody goes nowhere, and its sender goes on."""
        while (tag := self.worker.stray()) is not None:
            self.watch(self.worker.receive(tag, _NOWHERE))

    def destroy(self) -> None:
        """Ends what flies: afterwards nothing of this link touches memory."""
        self.worker.destroy()
        for region in self._flights.values():
            self._unpin(region)
        self._flights.clear()
