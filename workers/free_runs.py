"""Which blocks are empty, as runs of neighbours: the longest one is found without a look at every block."""

from __future__ import annotations

import heapq


class FreeRuns:
    """Numbers `[0, total)`, all free at first. Every change costs O(log runs)."""

    def __init__(self, total: int) -> None:
        self._free = bytearray(b"\1") * total
        self._stop_of: dict[int, int] = {}
        """Of each run, by where it starts."""
        self._start_of: dict[int, int] = {}
        self._longest: list[tuple[int, int]] = []
        """A heap of (-length, start); entries of runs that have changed since are skipped."""
        self._size = total
        if total:
            self._add(0, total)

    def __len__(self) -> int:
        return self._size

    def __contains__(self, number: int) -> bool:
        return bool(self._free[number])

    def give(self, number: int) -> None:
        """It is free again, and joins its neighbours."""
        self._free[number] = 1
        self._size += 1
        start = self._start_of.pop(number, number)
        stop = self._stop_of.pop(number + 1, number + 1)
        self._add(start, stop)

    def take(self, start: int, count: int, run: int) -> None:
        """`[start, start + count)` of the run that begins at `run`."""
        stop, end = start + count, self._stop_of.pop(run)
        del self._start_of[end]
        self._free[start:stop] = bytes(count)
        self._size -= count
        if run < start:
            self._add(run, start)
        if stop < end:
            self._add(stop, end)

    def run_at(self, start: int) -> int:
        """Where the run that starts here stops; `start` if none does."""
        return self._stop_of.get(start, start)

    def longest(self) -> tuple[int, int]:
        """The longest run as `(start, stop)`, the first of several. Raises `IndexError` if nothing is free."""
        while True:
            length, start = self._longest[0]
            if self._stop_of.get(start) == start - length:
                return start, start - length
            heapq.heappop(self._longest)

    def _add(self, start: int, stop: int) -> None:
        self._stop_of[start], self._start_of[stop] = stop, start
        heapq.heappush(self._longest, (start - stop, start))
        if len(self._longest) > 4 * len(self._stop_of) + 256:
            self._longest = sorted((start - stop, start) for start, stop in self._stop_of.items())
