"""The load that gateways refuse by."""

from __future__ import annotations

import pytest

from scheduler.events import PublishLoad, Reconnected
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


def test_the_predicted_wait_is_the_queued_prefill_at_the_owners_speed() -> None:
    d = Driver()
    d.join("one")
    d.join("two")
    d.known("a", n=4000)
    d.known("b", n=2000)
    (load,) = of(d.tick(0.25), PublishLoad)
    assert load.waiting == 2
    assert load.predicted_wait_s == pytest.approx(6000 / (2 * FAST.prefill_tokens_per_s()), abs=1e-3)
