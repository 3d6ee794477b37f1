"""How many prompt tokens arrive in a second, lately."""

from __future__ import annotations

import math

MEMORY_S = 10.0
"""After which an arrival counts 1/e: some requests long, and short beside what an operator would call a load."""


class PromptRate:
    """A sum of arrivals, each weighed `exp(-age / MEMORY_S) / MEMORY_S`: under a steady stream, its tokens a second."""

    def __init__(self, now: float) -> None:
        self._per_s = 0.0
        self._at = now

    def arrived(self, tokens: int, age_s: float, now: float) -> None:
        """A request that was submitted `age_s` ago: a new leader finds the rate that the one before it knew."""
        self._per_s = self.per_s(now) + tokens / MEMORY_S * math.exp(-max(0.0, age_s) / MEMORY_S)
        self._at = now

    def per_s(self, now: float) -> float:
        return self._per_s * math.exp(-max(0.0, now - self._at) / MEMORY_S)
