"""How long outputs are, learned from the requests that ended."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from typing import NamedTuple

WINDOW = 256
ENOUGH = 16
ALL = -1
"""The bucket of every output: its figures stand in for prompt lengths of which too little was seen."""


class Lengths(NamedTuple):
    """Tokens of an answer."""

    likely: int
    """The quantile."""
    mean: int


class OutputLengths:
    """A sliding window of output lengths (tokens) per power of two of the prompt length; one over all prompts for lengths seldom seen.

    `expect` is for memory, a quantile: reserving `max_tokens` wastes room for others, reserving nothing ends in preemption.
    `mean` is for time.
    """

    def __init__(self, quantile: float, default_tokens: int) -> None:
        self._quantile = quantile
        self._windows: dict[int, _Window] = {}
        self._known: dict[int, Lengths] = {}
        """Of buckets that have seen enough: worked out when they learn, for they are asked far more often."""
        self._unknown = Lengths(default_tokens, default_tokens)
        """Of the others: of all outputs together, as soon as enough of those were seen."""

    def learn(self, num_prompt: int, num_output: int) -> None:
        bucket = num_prompt.bit_length()
        if (known := self._learn(bucket, num_output)) is not None:
            self._known[bucket] = known
        self._unknown = self._learn(ALL, num_output) or self._unknown

    def _learn(self, bucket: int, num_output: int) -> Lengths | None:
        window = self._windows.get(bucket)
        if window is None:
            window = self._windows[bucket] = _Window()
        return window.learn(num_output, self._quantile)

    def expect(self, num_prompt: int, max_tokens: int, delivered: int = 0) -> int:
        """Tokens that are probably still to come, at least 1 and never beyond `max_tokens`."""
        known = self._known.get(num_prompt.bit_length(), self._unknown)
        return max(1, min(max_tokens, known.likely) - delivered)

    def mean(self, num_prompt: int, max_tokens: int, delivered: int = 0) -> int:
        """Tokens still to come on average, at least 1 and never beyond `max_tokens`."""
        known = self._known.get(num_prompt.bit_length(), self._unknown)
        return max(1, min(max_tokens, known.mean) - delivered)


class _Window:
    """The last `WINDOW` outputs of one bucket (tokens), in the order of arrival and of length."""

    __slots__ = ("_ordered", "_recent", "_sum")

    def __init__(self) -> None:
        self._recent: deque[int] = deque()
        self._ordered: list[int] = []
        self._sum = 0

    def learn(self, num_output: int, quantile: float) -> Lengths | None:
        """None while it has seen too little."""
        recent, ordered = self._recent, self._ordered
        if len(recent) == WINDOW:
            oldest = recent.popleft()
            del ordered[bisect_left(ordered, oldest)]
            self._sum -= oldest
        recent.append(num_output)
        insort(ordered, num_output)
        self._sum += num_output
        count = len(ordered)
        return Lengths(ordered[min(count - 1, int(count * quantile))], self._sum // count) if count >= ENOUGH else None
