"""What the steps of a measurement will take, and which of them fit into the time: pure.

A plan is cut by making its largest steps smaller, chunks, batches and contexts alike: it then has as many steps of every class as
before, and the fit is as well determined. What lies beyond is extrapolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from shared.types import GRANULE_TOKENS, whole_granules
from workers.profile_shapes import Bounds, Work, works

SMALLEST_BUDGET, SMALLEST_BATCH = 16, 4


class Pace:
    """Seconds of steps that are yet to come, rather too long than too short: from the dearest token and the dearest pair so far."""

    def __init__(self) -> None:
        self._step_s = self._token_s = self._pair_s = 0.0
        self._seen = 0

    def saw(self, work: Work, seconds: float) -> None:
        """The first one is the smallest step; then those without context, so that theirs can be told from the tokens'."""
        self._seen += 1
        rest, pairs = seconds - self._step_s, _pairs(work)
        if self._seen == 1:
            self._step_s = seconds
        elif not pairs:
            self._token_s = max(self._token_s, rest / work.tokens)
        else:
            self._pair_s = max(self._pair_s, (rest - self._token_s * work.tokens) / pairs)

    def expected(self, steps: Sequence[Work]) -> float:
        return sum(self._step_s + self._token_s * work.tokens + self._pair_s * _pairs(work) for work in steps)


def _pairs(work: Work) -> int:
    """Of a token and one before its own chunk."""
    return (work.stop - work.start) * work.start + work.decodes * work.context


def calibration(bounds: Bounds) -> tuple[Work, Work]:
    """The smallest step, and one that tells what tokens take."""
    small = max(3, min(bounds.token_budget // 32, bounds.max_context))
    return Work(stop=min(2, bounds.max_context)), Work(stop=small)


def smaller(bounds: Bounds) -> Bounds | None:
    """Half as large in everything; None where nothing can be smaller."""
    half = replace(
        bounds,
        token_budget=max(min(SMALLEST_BUDGET, bounds.token_budget), bounds.token_budget // 2),
        max_sequences=max(min(SMALLEST_BATCH, bounds.max_sequences), bounds.max_sequences // 2),
        max_context=max(min(GRANULE_TOKENS, bounds.max_context), whole_granules(bounds.max_context // 2)),
    )
    return None if half == bounds else half


def cut(bounds: Bounds, pace: Pace, done: Sequence[Work], steps: int, seconds: float) -> tuple[Bounds, list[Work]]:
    """The largest bounds of which so many further steps fit into these seconds, else the smallest; and what is left to do in them."""
    while True:
        left = [work for work in works(bounds) if work not in done]
        less = smaller(bounds)
        if less is None or pace.expected(left[:steps]) <= seconds:
            return bounds, left
        bounds = less
