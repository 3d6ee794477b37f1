"""An engine that hangs: its worker reports and renews everything, and computes nothing. Such a worker ends itself, as if it had crashed.

Then all that heals a crash heals this too: its requests go on elsewhere behind their last token, its agent starts it anew. Nothing gentler
would do: a thread inside a driver cannot be stopped, and what it still writes into the KV must not meet whoever comes next.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from shared.profile import Profile, StepShape
from workers.settings import WorkerSettings

log = logging.getLogger(__name__)

HUNG = 70
"""Exit status of a worker whose engine hung."""
FLOOR_S = 60.0
PATIENCE = 10.0
HELD_UP_S = 1.0
"""More than this between two looks is not the engine's doing: the process was stopped, or starved."""


class Watchdog:
    """Looks at a count of the engine's calls that is odd while one is under way: `calls`, for `limit_s` seconds of looking (0: never)."""

    def __init__(self, calls: Callable[[], int], limit_s: float, on_hang: Callable[[float], None]) -> None:
        self._calls = calls
        self._limit_s = limit_s
        self._on_hang = on_hang
        self._seen = 0
        self._inside_s = 0.0
        self._last = 0.0

    def look(self, now: float) -> None:
        """Often, on the worker's own loop. A process that sleeps and wakes has not waited for its engine in its sleep."""
        calls = self._calls()
        if calls % 2 == 0 or calls != self._seen:
            self._inside_s = 0.0
        else:
            self._inside_s += min(HELD_UP_S, now - self._last)
        self._seen, self._last = calls, now
        if self._limit_s and self._inside_s >= self._limit_s:
            self._on_hang(self._inside_s)


def limit_of(profile: Profile, settings: WorkerSettings) -> float:
    """Seconds after which a step is no slow step any more: many times the longest one there can be, by the profile."""
    tokens, rows, context = settings.token_budget, settings.max_sequences, settings.max_model_tokens
    return max(FLOOR_S, PATIENCE * profile.step_seconds(StepShape(tokens, tokens * context, rows, rows * context)))


def end_at_once(inside_s: float) -> None:
    """No goodbye, no clean-up: either could wait for the engine."""
    log.critical("the engine has not come back for %.0f s: this worker ends, its requests go on elsewhere", inside_s)
    logging.shutdown()
    os._exit(HUNG)
