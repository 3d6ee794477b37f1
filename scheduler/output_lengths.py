"""How long outputs are, learned from the requests that ended."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque

WINDOW = 256
ENOUGH = 16
ALL = -1
"""The bucket of every output: its figures stand in for prompt lengths of which too little was seen."""


class OutputLengths:
    """A sliding window of output lengths (tokens) per power of two of the prompt length; one over all prompts for lengths seldom seen.

    `expect` is for memory, a quantile: reserving `max_tokens` wastes room for others, reserving nothing ends in preemption.
    `mean` is for time.
    """

    def __init__(self, quantile: float, default_tokens: int) -> None:
        self._quantile = quantile
        self._default = default_tokens
        self._recent: dict[int, deque[int]] = {}
        self._sorted: dict[int, list[int]] = {}
        self._sums: dict[int, int] = {}

    def learn(self, num_prompt: int, num_output: int) -> None:
        for bucket in (num_prompt.bit_length(), ALL):
            self._learn(bucket, num_output)

    def _learn(self, bucket: int, num_output: int) -> None:
        recent = self._recent.setdefault(bucket, deque())
        ordered = self._sorted.setdefault(bucket, [])
        if len(recent) == WINDOW:
            oldest = recent.popleft()
            del ordered[bisect_left(ordered, oldest)]
            self._sums[bucket] -= oldest
        recent.append(num_output)
        self._sums[bucket] = self._sums.get(bucket, 0) + num_output
        insort(ordered, num_output)

    def expect(self, num_prompt: int, max_tokens: int, delivered: int = 0) -> int:
        """Tokens that are probably still to come, at least 1 and never beyond `max_tokens`."""
        return max(1, min(max_tokens, self._likely(num_prompt)) - delivered)

    def mean(self, num_prompt: int, max_tokens: int, delivered: int = 0) -> int:
        """Tokens still to come on average, at least 1 and never beyond `max_tokens`."""
        bucket = self._bucket(num_prompt)
        seen = len(self._sorted.get(bucket, ()))
        average = self._sums[bucket] // seen if seen >= ENOUGH else self._default
        return max(1, min(max_tokens, average) - delivered)

    def _likely(self, num_prompt: int) -> int:
        ordered = self._sorted.get(self._bucket(num_prompt), [])
        if len(ordered) < ENOUGH:
            return self._default
        return ordered[min(len(ordered) - 1, int(len(ordered) * self._quantile))]

    def _bucket(self, num_prompt: int) -> int:
        own = num_prompt.bit_length()
        return own if len(self._sorted.get(own, ())) >= ENOUGH else ALL
