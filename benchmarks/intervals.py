"""Confidence intervals of ratios measured in interleaved rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 4000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A ratio's median and its confidence interval."""

    ratio: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """`tie` if the interval contains 1.0."""
        if self.low <= 1.0 <= self.high:
            return "tie"
        return "quicker" if self.low > 1.0 else "slower"

    def __str__(self) -> str:
        return f"{self.ratio:6.2f}x [{self.low:.2f}, {self.high:.2f}] {self.verdict}"


def ratio_interval(ours: Sequence[float], theirs: Sequence[float], seed: int = 0) -> Interval:
    """Median of the rounds' ratios, and its percentile bootstrap interval (Efron, 1979) over the rounds."""
    ratios = np.asarray(ours, dtype=np.float64) / np.asarray(theirs, dtype=np.float64)
    drawn = np.random.default_rng(seed).choice(ratios, size=(RESAMPLES, len(ratios)))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.median(drawn, axis=1), (tail, 1 - tail))
    return Interval(float(np.median(ratios)), float(low), float(high))
