"""The load that gateways refuse by."""

from __future__ import annotations

import pytest

from scheduler.events import PublishLoad, Reconnected
from scheduler.turnover import Ask, Owner, turnover
from tests.unit.scheduler.support import FAST, Driver, of


def test_the_load_is_published_when_it_changes_at_most_every_quarter_second() -> None:
    d = Driver()
    assert of(d.known("a"), PublishLoad) == [PublishLoad(1, 30.0)]
    assert of(d.known("b"), PublishLoad) == []
    assert of(d.tick(0.25), PublishLoad) == [PublishLoad(2, 30.0)]
    assert of(d.tick(0.25), PublishLoad) == []


def test_an_unchanged_load_is_published_again_so_that_its_key_may_expire() -> None:
    d = Driver()
    d.tick()
    assert of(d.tick(0.9), PublishLoad) == []
    assert of(d.tick(0.1), PublishLoad) == [PublishLoad(0, 0.0)]


def test_after_a_cut_the_load_is_published_at_once() -> None:
    d = Driver()
    d.tick()
    assert of(d.send(Reconnected()), PublishLoad) == [PublishLoad(0, 0.0)]


def test_the_predicted_wait_is_the_line_at_the_owners_modelled_pace() -> None:
    d = Driver()
    d.join("one")
    d.join("two")
    d.known("a", n=4000, max_tokens=100)
    d.known("b", n=2000, max_tokens=50)
    (load,) = of(d.tick(0.25), PublishLoad)
    pace = turnover([Owner(FAST, 512, 32, 16_000)] * 2, 0.0, Ask(3000, 75))
    assert load.takes_per_s == pytest.approx(pace.takes_per_s, rel=1e-5)
    assert load.kv_takes_per_s == pytest.approx(pace.kv_takes_per_s, rel=1e-5)
    assert load.waiting == 2
    assert load.predicted_wait_s == pytest.approx(2 / pace.takes_per_s, abs=1e-3)


def test_takes_that_were_observed_correct_the_pace() -> None:
    """Nobody takes anything while the line is full: what was modelled is not what happens."""
    d = Driver()
    d.join("one")
    d.known("a", n=4000)
    (before,) = of(d.tick(0.25), PublishLoad)
    for _ in range(60):
        d.now += 1.0
        (after,) = of(d.report("one"), PublishLoad)
    assert after.takes_per_s < before.takes_per_s / 3
    assert after.predicted_wait_s == pytest.approx(1 / after.takes_per_s, abs=1e-3)
