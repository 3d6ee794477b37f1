"""Fabric writes whose answer has not come."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from scheduler.events import SchedulerCommand

K = TypeVar("K", bound=str)


class Outbox(Generic[K]):
    """At most one write per key, in the order of sending: what is due for repetition is always in front."""

    def __init__(self, retry_s: float) -> None:
        self._retry_s = retry_s
        self._sent: dict[K, tuple[SchedulerCommand, float]] = {}

    def __len__(self) -> int:
        return len(self._sent)

    def __iter__(self) -> Iterator[K]:
        return iter(self._sent)

    def __contains__(self, key: K) -> bool:
        return key in self._sent

    def get(self, key: K) -> SchedulerCommand | None:
        entry = self._sent.get(key)
        return entry[0] if entry else None

    def send(self, key: K, command: SchedulerCommand, now: float) -> None:
        """Replaces what was sent under this key before: its answer no longer matters."""
        self._sent.pop(key, None)
        self._sent[key] = (command, now)

    def answered(self, key: K) -> None:
        self._sent.pop(key, None)

    def overdue(self, now: float) -> list[SchedulerCommand]:
        """Writes to repeat now; each counts as sent now."""
        again: list[SchedulerCommand] = []
        for key, command in list(self._front(now)):
            self.send(key, command, now)
            again.append(command)
        return again

    def _front(self, now: float) -> Iterator[tuple[K, SchedulerCommand]]:
        for key, (command, sent) in self._sent.items():
            if now - sent < self._retry_s:
                return
            yield key, command
