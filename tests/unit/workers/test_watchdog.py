"""Only the engine's own silence counts: not rest, not many short calls, not the sleep of the whole process."""

from __future__ import annotations

from shared.profile import Profile
from shared.types import WorkerId, WorkerRef
from workers.settings import WorkerSettings
from workers.watchdog import FLOOR_S, Watchdog, limit_of

LIMIT_S = 5.0


class Dog:
    """A watchdog under a hand-moved clock, over a hand-moved count of calls."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self.calls = 0
        self.hung: list[float] = []
        self.now = 100.0
        self.watchdog = Watchdog(lambda: self.calls, limit_s, self.hung.append)
        self.watchdog.look(self.now)

    def look_on(self, seconds: float, every: float = 0.5) -> None:
        for _ in range(round(seconds / every)):
            self.now += every
            self.watchdog.look(self.now)


def test_a_call_that_never_comes_back_is_found() -> None:
    dog = Dog()
    dog.calls = 1
    dog.look_on(LIMIT_S)
    assert not dog.hung
    dog.look_on(0.5)
    assert dog.hung == [LIMIT_S]


def test_rest_and_steps_that_come_back_are_no_hang() -> None:
    dog = Dog()
    dog.look_on(3 * LIMIT_S)
    for _ in range(6):
        dog.calls += 2
        dog.look_on(1.0)
        dog.calls += 1
        dog.look_on(LIMIT_S - 1.0)
        dog.calls += 1
    assert not dog.hung


def test_a_process_that_slept_has_not_waited_for_its_engine() -> None:
    dog = Dog()
    dog.calls = 1
    dog.look_on(1.0)
    dog.look_on(3600.0, every=3600.0)
    assert not dog.hung


def test_without_a_limit_it_waits_for_ever() -> None:
    dog = Dog(0.0)
    dog.calls = 1
    dog.look_on(1000.0, every=1.0)
    assert not dog.hung


def test_the_limit_is_far_beyond_the_longest_step_of_a_slow_device() -> None:
    def settings(tokens: int) -> WorkerSettings:
        return WorkerSettings(WorkerRef(WorkerId("w"), "1"), b"", 16, 64, tokens, 8, 4096)

    slow, fast = Profile(0.5, 0.05, 1e-6, 0.01, 1e-6, 0), Profile(0.01, 1e-5, 1e-9, 1e-5, 1e-9, 0)
    assert limit_of(slow, settings(512)) > 10 * 512 * 0.05
    assert limit_of(fast, settings(512)) == FLOOR_S
