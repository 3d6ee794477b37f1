"""Confidence intervals of ratios measured in interleaved rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 4000
CONFIDENCE = 0.95

Samples = np.typing.NDArray[np.float64]


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


def quantile_ratio_interval(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]], percent: float, seed: int = 0) -> Interval:
    """Ratio of a quantile of all rounds' samples, and its percentile bootstrap interval over the rounds, drawn in pairs.

    A round's p99 rests on a handful of samples; that of all rounds together on many. The samples of one round are not independent, so
    whole rounds are drawn, ours and theirs of the same one together. `ours` and `theirs` hold one sequence of samples for each round.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} rounds of ours and {len(theirs)} of theirs are no pairs")
    pairs = [(np.asarray(mine, dtype=np.float64), np.asarray(other, dtype=np.float64)) for mine, other in zip(ours, theirs, strict=True)]
    drawn = np.random.default_rng(seed).integers(0, len(pairs), size=(RESAMPLES // 4, len(pairs)))
    distinct = {tuple(sorted(rounds)) for rounds in drawn.tolist()}
    ratios = {rounds: _quantile_ratio([pairs[at] for at in rounds], percent) for rounds in distinct}
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile([ratios[tuple(sorted(rounds))] for rounds in drawn.tolist()], (tail, 1 - tail))
    return Interval(_quantile_ratio(pairs, percent), float(low), float(high))


def _quantile_ratio(pairs: Sequence[tuple[Samples, Samples]], percent: float) -> float:
    mine, other = (np.percentile(np.concatenate(side), percent) for side in zip(*pairs, strict=True))
    return float(mine / other)
