"""Later each time, and at last no more."""

from __future__ import annotations

from workers.agent.backoff import BackOff, BackOffSettings

SETTINGS = BackOffSettings(first_s=0.5, factor=2.0, longest_s=3.0, max_crashes=6, stable_s=60.0)


def test_waits_double_up_to_the_longest_and_end_with_giving_up() -> None:
    back_off = BackOff(SETTINGS)
    assert [back_off.crashed(1.0) for _ in range(6)] == [0.5, 1.0, 2.0, 3.0, 3.0, None]


def test_a_long_life_begins_a_new_row() -> None:
    back_off = BackOff(SETTINGS)
    assert [back_off.crashed(1.0) for _ in range(4)][-1] == 3.0
    assert back_off.crashed(60.0) == 0.5
    assert back_off.crashed(59.9) == 1.0
