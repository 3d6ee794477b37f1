"""How long outputs are, learned from the requests that ended."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque

WINDOW = 256
ENOUGH = 16


class OutputLengths:
    """A sliding window of output lengths (tokens) per power of two of the prompt length.

    Reserving `max_tokens` wastes memory that would hold other requests; reserving nothing ends in preemption.
    """

    def __init__(self, quantile: float, default_tokens: int) -> None:
        self._quantile = quantile
        self._default = default_tokens
        self._recent: dict[int, deque[int]] = {}
        self._sorted: dict[int, list[int]] = {}

    def learn(self, num_prompt: int, num_output: int) -> None:
        bucket = num_prompt.bit_length()
        recent = self._recent.setdefault(bucket, deque())
        ordered = self._sorted.setdefault(bucket, [])
        if len(recent) == WINDOW:
            del ordered[bisect_left(ordered, recent.popleft())]
        recent.append(num_output)
        insort(ordered, num_output)

    def expect(self, num_prompt: int, max_tokens: int, delivered: int = 0) -> int:
        """Tokens that are probably still to come, at least 1 and never beyond `max_tokens`."""
        return max(1, min(max_tokens, self._likely(num_prompt.bit_length())) - delivered)

    def _likely(self, bucket: int) -> int:
        ordered = self._sorted.get(bucket, [])
        if len(ordered) < ENOUGH:
            return self._default
        return ordered[min(len(ordered) - 1, int(len(ordered) * self._quantile))]
