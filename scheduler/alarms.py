"""Times at which something is due."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Alarms(Generic[K]):
    """One time per key. Putting an alarm off is a dictionary write: the heap is corrected when the old time comes up."""

    def __init__(self) -> None:
        self._at: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._pushed = 0

    def __len__(self) -> int:
        return len(self._at)

    def __contains__(self, key: K) -> bool:
        return key in self._at

    def __iter__(self) -> Iterator[K]:
        return iter(self._at)

    def set(self, key: K, at: float) -> None:
        known = self._at.get(key)
        self._at[key] = at
        if known is None or at < known:
            self._push(key, at)

    def clear(self, key: K) -> None:
        self._at.pop(key, None)

    def due(self, now: float) -> list[K]:
        """Keys whose time has come, earliest first; their alarms are gone."""
        rung: list[K] = []
        while self._heap and self._heap[0][0] <= now:
            _, _, key = heapq.heappop(self._heap)
            at = self._at.get(key)
            if at is None:
                continue
            if at > now:
                self._push(key, at)
            else:
                del self._at[key]
                rung.append(key)
        return rung

    def put_off(self, keys: Iterable[K], at: float) -> None:
        """No alarm of these rings before `at`."""
        for key in keys:
            self._at[key] = max(at, self._at[key])

    def _push(self, key: K, at: float) -> None:
        self._pushed += 1
        entry: tuple[float, int, Any] = (at, self._pushed, key)
        heapq.heappush(self._heap, entry)
