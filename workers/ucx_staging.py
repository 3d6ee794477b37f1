"""The staging arena among threads, with the rule that no byte is reused while UCX may still touch it."""

from __future__ import annotations

import mmap
from threading import Lock

import numpy as np

from workers.staging import Region, RegionState, StagingArena


class PinnedArena:
    """A `StagingArena` whose regions are pinned by running operations.

    Whoever holds a region releases it whenever it likes: pinned, it goes to quarantine and is lifted with the last pin.
    """

    def __init__(self, nbytes: int) -> None:
        self._memory = mmap.mmap(-1, max(nbytes, mmap.PAGESIZE), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._memory.madvise(mmap.MADV_HUGEPAGE)
        buffer = memoryview(self._memory)
        self._base = _address(buffer)
        self._arena = StagingArena(buffer)
        self._pins: dict[Region, int] = {}
        self._held: dict[int, Region] = {}
        self._lock = Lock()

    def allocate(self, nbytes: int) -> Region:
        """Raises `TransportError` when the arena is full."""
        with self._lock:
            region = self._arena.allocate(nbytes)
            self._held[region.start] = region
            return region

    def pin(self, region: Region) -> None:
        with self._lock:
            self._pins[region] = self._pins.get(region, 0) + 1

    def unpin(self, region: Region) -> None:
        with self._lock:
            self._pins[region] -= 1
            if self._pins[region]:
                return
            del self._pins[region]
            if region.state is RegionState.QUARANTINED:
                self._arena.lift(region)

    def release(self, region: Region) -> None:
        """Exactly once per region."""
        with self._lock:
            if self._held.pop(region.start, None) is not region:
                raise AssertionError(f"{region} was released twice")
            if region in self._pins:
                self._arena.quarantine(region)
            else:
                self._arena.free(region)

    def region_of(self, view: memoryview) -> Region | None:
        """The held region that this view begins."""
        return self._held.get(_address(view) - self._base) if len(view) else None

    @property
    def quarantined_bytes(self) -> int:
        with self._lock:
            return self._arena.quarantined_bytes

    @property
    def free_bytes(self) -> int:
        with self._lock:
            return self._arena.free_bytes

    def check(self) -> None:
        """Conservation. Raises `AssertionError`."""
        with self._lock:
            self._arena.check()

    def __repr__(self) -> str:
        with self._lock:
            return repr(self._arena)


def _address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).__array_interface__["data"][0])
