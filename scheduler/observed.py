"""What the line really did, against what was predicted: the factor by which predictions are corrected."""

from __future__ import annotations

import math

WINDOW_S, WINDOW_TAKES = 1.0, 4.0
"""A window is at least so long, in seconds and in predicted takes."""
MEMORY_S = 30.0
"""Of observed time, after which a window counts 1/e."""
PRIOR_TAKES = 4.0
"""So many takes exactly as predicted are believed before anything was seen."""
STEADY = 0.25
"""Windows in which running requests grow by more than this share of the takes fill up the workers: they say nothing of steady work."""


class ObservedPace:
    """Takes in windows in which the line was never empty, beside the takes that were predicted for them."""

    def __init__(self) -> None:
        self._taken = self._expected = 0.0
        self._since: float | None = None
        self._takes = self._running = 0

    @property
    def factor(self) -> float:
        """Multiplies a predicted rate."""
        return (self._taken + PRIOR_TAKES) / (self._expected + PRIOR_TAKES)

    def interrupted(self) -> None:
        """The line was empty, or nobody could be heard: what was begun says nothing."""
        self._since = None

    def restate(self, ratio: float) -> None:
        """The same work is predicted at `ratio` times the rate from now on: what was observed is what it was."""
        self._expected *= ratio

    def look(self, now: float, takes: int, running: int, predicted_per_s: float) -> None:
        """`takes` counts all that ever were, `running` those that have an owner now; the line is not empty."""
        if self._since is None:
            self._begin(now, takes, running)
        elif (seconds := now - self._since) >= max(WINDOW_S, WINDOW_TAKES / max(predicted_per_s, 1e-9)):
            taken, grown = takes - self._takes, running - self._running
            if predicted_per_s > 0 and abs(grown) <= 1 + STEADY * taken:
                self._learn(taken, predicted_per_s * seconds, seconds)
            self._begin(now, takes, running)

    def _begin(self, now: float, takes: int, running: int) -> None:
        self._since, self._takes, self._running = now, takes, running

    def _learn(self, taken: int, expected: float, seconds: float) -> None:
        keep = math.exp(-seconds / MEMORY_S)
        self._taken = keep * self._taken + taken
        self._expected = keep * self._expected + expected
