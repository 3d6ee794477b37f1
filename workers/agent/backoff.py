"""When a crashed worker is started again, and when no more: pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BackOffSettings:
    """All in seconds but the count."""

    first_s: float = 0.5
    factor: float = 2.0
    longest_s: float = 30.0
    max_crashes: int = 6
    """Crashes in a row after which it is given up."""
    stable_s: float = 60.0
    """A life so long ends the row."""


class BackOff:
    """Counts the crashes in a row of one worker."""

    def __init__(self, settings: BackOffSettings) -> None:
        self._settings = settings
        self.crashes = 0

    def crashed(self, lived_s: float) -> float | None:
        """Seconds to wait before the next start, doubling with every crash in a row; None: no further start."""
        self.crashes = 1 if lived_s >= self._settings.stable_s else self.crashes + 1
        if self.crashes >= self._settings.max_crashes:
            return None
        return min(self._settings.longest_s, self._settings.first_s * self._settings.factor ** (self.crashes - 1))
