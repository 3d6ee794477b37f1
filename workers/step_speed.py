"""How fast the device is now, against its profile: from the steps that it just took. Pure: time comes in.

`factor` is what every predicted second must be multiplied by: the median of measured over predicted time of the last seconds'
steps. A single slow step moves nothing, however long it took; an idle device keeps its figure; a change that stays is believed
once it fills half of the window, and so is its end.
"""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import NamedTuple

from shared.profile import Profile, StepShape

WINDOW_S = 8.0
"""A throttle is believed after half of it, well within 20 s even at steps of seconds."""
LEAST_STEPS = 5
"""In the window before anything is concluded; where steps are slow, it is as old as the fifth last."""
OLDEST_S = 60.0
"""No step counts for longer."""
MOST_STEPS = 512
WORTH_TELLING = 0.12
"""A relative change of the factor below it is noise."""
BOUNDS = (0.05, 100.0)


class _Step(NamedTuple):
    at: float
    ratio: float


class StepSpeed:
    """Feed it steps with `saw`; `factor` moves in jumps of at least `WORTH_TELLING`."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._steps: deque[_Step] = deque(maxlen=MOST_STEPS)
        self._looked_at = 0
        self.factor = 1.0

    @property
    def profile(self) -> Profile:
        """Of the device as it is now."""
        return self._profile if self.factor == 1.0 else self._profile.scaled(self.factor)

    def saw(self, shape: StepShape, seconds: float, now: float) -> bool:
        """A step ended at `now` after `seconds`. Returns whether the factor changed."""
        predicted = self._profile.step_seconds(shape)
        if not (predicted > 0 and seconds > 0):
            return False
        self._steps.append(_Step(now, seconds / predicted))
        self._forget(now)
        self._looked_at += 1
        # A sorted window at every step would cost more than the steps of a fast device leave to spare.
        if len(self._steps) < LEAST_STEPS or self._looked_at * 8 < len(self._steps):
            return False
        self._looked_at = 0
        return self._believe(median(step.ratio for step in self._steps))

    def _forget(self, now: float) -> None:
        steps = self._steps
        while len(steps) > LEAST_STEPS and steps[0].at < now - WINDOW_S:
            steps.popleft()
        while steps[0].at < now - OLDEST_S:
            steps.popleft()

    def _believe(self, ratio: float) -> bool:
        ratio = min(max(ratio, BOUNDS[0]), BOUNDS[1])
        if abs(ratio / self.factor - 1) < WORTH_TELLING:
            return False
        self.factor = 1.0 if abs(ratio - 1) < WORTH_TELLING / 2 else ratio
        return True

    def __repr__(self) -> str:
        return f"<StepSpeed x{self.factor:.2f} of predicted seconds [steps {len(self._steps)}]>"
