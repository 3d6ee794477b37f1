"""The virtual clock: what happens when."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Agenda:
    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, when: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (max(when, self.now), self._count, action))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        self.at(self.now + seconds, action)

    def play(self, until: Callable[[], bool], limit_s: float) -> bool:
        """In order of time, then of entry. Whether `until` came true before the clock reached `limit_s`."""
        while self._heap and not until():
            self.now, _, action = heapq.heappop(self._heap)
            if self.now > limit_s:
                return False
            action()
        return until()
