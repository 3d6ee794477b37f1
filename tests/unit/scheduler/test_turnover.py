"""How fast the line is worked off: the arithmetic, and what observation makes of it."""

from __future__ import annotations

import pytest

from scheduler.observed import ObservedPace
from scheduler.turnover import Ask, Owner, turnover
from shared.profile import Profile, StepShape

PROFILE = Profile(0.01, 1e-5, 0.0, 1e-4, 1e-8, 1000)
ROOMY = Owner(PROFILE, token_budget=512, places=32, kv_tokens=10**6)


def test_an_owner_takes_what_its_places_decode_in_steps_with_their_prefill_beside() -> None:
    ask = Ask(prompt=640, output=64)
    step_s = PROFILE.step_seconds(_shape(32, 320, 640, 672))
    assert turnover([ROOMY], 0, ask).takes_per_s == pytest.approx(32 / (64 * step_s))


def _shape(decodes: int, prefill: int, prompt: int, context: int) -> StepShape:
    return StepShape(prefill, prefill * prompt // 2, decodes, decodes * context)


def test_memory_bounds_how_many_run_at_once() -> None:
    ask = Ask(prompt=640, output=64)
    tight = turnover([Owner(PROFILE, 512, 32, kv_tokens=4 * 704)], 0, ask)
    roomy = turnover([ROOMY], 0, ask)
    assert tight.takes_per_s == tight.kv_takes_per_s < roomy.takes_per_s < roomy.kv_takes_per_s


def test_owners_add_up_and_head_starts_help() -> None:
    ask = Ask(prompt=640, output=8)
    one, two = turnover([ROOMY], 0, ask), turnover([ROOMY, ROOMY], 0, ask)
    assert two.takes_per_s == pytest.approx(2 * one.takes_per_s)
    assert one.takes_per_s < turnover([ROOMY], 2000, ask).takes_per_s < 2 * one.takes_per_s
    assert turnover([], 2000, ask).takes_per_s == 0


def test_choices_need_places_and_memory_of_their_own() -> None:
    assert turnover([ROOMY], 0, Ask(640, 64, 4)).takes_per_s < turnover([ROOMY], 0, Ask(640, 64)).takes_per_s / 3


def test_what_was_observed_corrects_what_is_predicted() -> None:
    observed = ObservedPace()
    for second in range(200):
        observed.look(float(second), takes=5 * second, running=40, predicted_per_s=10.0)
    assert observed.factor == pytest.approx(0.5, rel=0.02)
    observed.restate(2.0)
    assert observed.factor == pytest.approx(0.25, rel=0.02)


def test_workers_that_fill_up_and_lines_that_run_dry_say_nothing() -> None:
    observed = ObservedPace()
    for second in range(20):
        observed.look(float(second), takes=50 * second, running=50 * second, predicted_per_s=10.0)
    for second in range(20, 60):
        observed.look(float(second), takes=1000, running=40, predicted_per_s=10.0)
        observed.interrupted()
    assert observed.factor == 1.0
