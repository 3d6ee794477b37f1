"""KV on its way: one transfer at a time leaves a worker, one at a time arrives."""

from __future__ import annotations

from collections.abc import Callable, Hashable


class Links:
    def __init__(self, seconds: float, bytes_per_s: float) -> None:
        self._seconds, self._bytes_per_s = seconds, bytes_per_s
        self._free_at: dict[Hashable, float] = {}
        self.bytes_moved = 0
        self.slower: dict[Hashable, float] = {}
        """How many times as long as others everything takes that leaves these senders."""

    def send(self, now: float, sender: Hashable, receiver: Hashable, nbytes: int, arrive: Callable[[float], None]) -> None:
        """Calls `arrive(at)` with the time at which the last byte is there."""
        slower = self.slower.get(sender, 1.0)
        # What trickles in from a slow sender leaves the receiver room for others.
        ends = (("out", sender), ("in", receiver)) if slower == 1.0 else (("out", sender),)
        start = max(now, *(self._free_at.get(end, 0.0) for end in ends))
        over = start + slower * nbytes / self._bytes_per_s
        self._free_at.update(dict.fromkeys(ends, over))
        self.bytes_moved += nbytes
        arrive(over + slower * self._seconds)
