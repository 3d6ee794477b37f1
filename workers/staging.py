"""One arena of staging memory, where transfers land before anybody believes them.

A region is held by one transfer, then free again; or, if the transfer was given up while its operation may still write,
quarantined until the operation has completed or its peer is destroyed. Only then may other bytes live there.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from enum import Enum

from shared.errors import TransportError

ALIGNMENT = 4096
"""Regions start and end on pages: no two transfers share one."""


class RegionState(Enum):
    HELD = "held"
    QUARANTINED = "quarantined"
    FREE = "free"


@dataclass(eq=False, slots=True)
class Region:
    """`[start, start + size)` of the arena; the first `nbytes` of it are the caller's."""

    start: int
    size: int
    nbytes: int
    view: memoryview = field(repr=False)
    state: RegionState = RegionState.HELD

    @property
    def stop(self) -> int:
        return self.start + self.size


class StagingArena:
    """First fit over one buffer. Not thread-safe: its transport holds a lock, or is the only one to touch it."""

    def __init__(self, buffer: memoryview) -> None:
        self._buffer = buffer.cast("B")
        self.capacity = len(self._buffer) // ALIGNMENT * ALIGNMENT
        self._free: list[tuple[int, int]] = [(0, self.capacity)] if self.capacity else []
        self._taken: dict[int, Region] = {}

    def allocate(self, nbytes: int) -> Region:
        """A region of at least `nbytes`, held by the caller. Raises `TransportError` when none is large enough."""
        size = max(1, -(-nbytes // ALIGNMENT)) * ALIGNMENT
        for at, (start, stop) in enumerate(self._free):
            if stop - start >= size:
                self._free[at : at + 1] = [(start + size, stop)] if stop - start > size else []
                region = Region(start, size, nbytes, self._buffer[start : start + nbytes])
                self._taken[start] = region
                return region
        raise TransportError(f"no {size} bytes in a row in {self!r}")

    def free(self, region: Region) -> None:
        """The holder needs it no more, and nothing can write to it."""
        self._give_back(region, RegionState.HELD)

    def quarantine(self, region: Region) -> None:
        """The holder gives up, but an operation may still write here."""
        self._expect(region, RegionState.HELD)
        region.state = RegionState.QUARANTINED

    def lift(self, region: Region) -> None:
        """The operation has completed or its peer is destroyed: the quarantined region is free."""
        self._give_back(region, RegionState.QUARANTINED)

    @property
    def free_bytes(self) -> int:
        return sum(stop - start for start, stop in self._free)

    @property
    def quarantined_bytes(self) -> int:
        return sum(region.size for region in self._taken.values() if region.state is RegionState.QUARANTINED)

    @property
    def held_bytes(self) -> int:
        return sum(region.size for region in self._taken.values() if region.state is RegionState.HELD)

    def check(self) -> None:
        """Conservation: free, held and quarantined intervals tile the arena. Raises `AssertionError`."""
        tiles = sorted(self._free + [(region.start, region.stop) for region in self._taken.values()])
        edges = [0, *(edge for tile in tiles for edge in tile), self.capacity]
        if edges[0::2] != edges[1::2]:
            raise AssertionError(f"the arena leaks or overlaps: tiles {tiles} of {self.capacity} bytes")
        if any(region.state is RegionState.FREE for region in self._taken.values()):
            raise AssertionError("a free region is still on the books")

    def __repr__(self) -> str:
        return (
            f"<StagingArena free {self.free_bytes} | held {self.held_bytes} | quarantined {self.quarantined_bytes}"
            f" of {self.capacity} bytes>"
        )

    def _expect(self, region: Region, state: RegionState) -> None:
        if self._taken.get(region.start) is not region or region.state is not state:
            raise AssertionError(f"{region} is not {state.value} in {self!r}")

    def _give_back(self, region: Region, state: RegionState) -> None:
        self._expect(region, state)
        del self._taken[region.start]
        region.state = RegionState.FREE
        self._merge(region.start, region.stop)

    def _merge(self, start: int, stop: int) -> None:
        """Puts `[start, stop)` back among the free intervals and joins it with its neighbours."""
        at = bisect_left(self._free, (start, stop))
        if at < len(self._free) and self._free[at][0] == stop:
            stop = self._free.pop(at)[1]
        if at > 0 and self._free[at - 1][1] == start:
            at, start = at - 1, self._free.pop(at - 1)[0]
        self._free.insert(at, (start, stop))
