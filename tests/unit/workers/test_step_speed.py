"""Live step times correct the profile: a throttle is believed soon, chance and idleness are not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.profile import Profile, StepShape
from tests.support.core_bench import SPEC, Bench
from tests.support.core_harness import make_spec
from workers.events import StepDone
from workers.step_shape import shape_of
from workers.step_speed import StepSpeed

PROFILE = Profile(0.01, 1e-4, 1e-8, 1e-3, 1e-6, 512)
DECODES, CHUNK = StepShape(0, 0, 8, 4000), StepShape(512, 512 * 513 // 2, 8, 4000)


class Device:
    """A busy device on a clock of its own."""

    def __init__(self) -> None:
        self.speed, self.now = StepSpeed(PROFILE), 0.0

    def run(self, seconds: float, factor: float, gap: float = 0.0) -> None:
        """Steps of both kinds, back to back or with idle gaps, each `factor` times as long as predicted."""
        until, at = self.now + seconds, 0
        while self.now < until:
            self.step(CHUNK if at % 3 == 0 else DECODES, factor)
            self.now += gap
            at += 1

    def step(self, shape: StepShape, factor: float) -> None:
        taken = PROFILE.step_seconds(shape) * factor
        self.now += taken
        self.speed.saw(shape, taken, self.now)


@pytest.mark.parametrize("gap", [0.0, 0.2, 1.5])
def test_half_the_speed_is_believed_within_twenty_seconds_and_so_is_its_end(gap: float) -> None:
    device = Device()
    device.run(30, 1.0, gap)
    assert device.speed.factor == 1.0
    device.run(20, 2.0, gap)
    assert device.speed.factor == pytest.approx(2.0)
    assert device.speed.profile == PROFILE.scaled(2.0)
    device.run(20, 1.0, gap)
    assert device.speed.factor == 1.0
    assert device.speed.profile is PROFILE


def test_one_slow_step_changes_nothing_however_long_it_took() -> None:
    device = Device()
    device.run(10, 1.0, gap=1.0)
    device.step(CHUNK, 500.0)
    device.run(30, 1.0, gap=1.0)
    assert device.speed.factor == 1.0


def test_an_idle_device_keeps_its_figure_and_the_first_steps_after_it_prove_nothing() -> None:
    device = Device()
    device.run(20, 2.0)
    device.now += 3600
    for _ in range(4):
        device.step(DECODES, 1.0)
    assert device.speed.factor == pytest.approx(2.0)
    device.run(1.0, 1.0)
    assert device.speed.factor == 1.0


def test_steps_of_seconds_are_believed_in_time_too() -> None:
    slow = Device()
    chunk = replace(CHUNK, prefill_tokens=20_000)
    for _ in range(10):
        slow.step(chunk, 1.0)
    began = slow.now
    while slow.speed.factor == 1.0:
        slow.step(chunk, 2.0)
    assert slow.now - began < 20


def test_noise_is_not_told() -> None:
    device = Device()
    for number in range(400):
        device.step(DECODES, (0.8, 0.95, 1.0, 1.05, 1.3)[number % 5])
        assert device.speed.factor == 1.0


def test_a_step_without_a_duration_or_a_prediction_counts_for_nothing() -> None:
    assert not any(StepSpeed(PROFILE).saw(DECODES, 0.0, float(at)) for at in range(100))
    nothing = StepSpeed(Profile(0.0, 0.0, 0.0, 0.0, 0.0, 0))
    assert not any(nothing.saw(DECODES, 1.0, float(at)) for at in range(100))


# --- in the core -----------------------------------------------------------------------------------------------------


def served(bench: Bench, factor: float, steps: int) -> None:
    for _ in range(steps):
        plan = bench.launched.pop(0).plan
        seconds = PROFILE.step_seconds(shape_of(plan)) * factor
        count = len(plan.samples)
        bench.do(StepDone(plan.step, (1,) * count, (-1.0,) * count, seconds), now=bench.now + seconds)


def test_a_throttled_worker_reports_its_profile_at_once_and_repeats_it() -> None:
    bench = Bench(profile=PROFILE, prefix_cache=False)
    bench.assign(make_spec("r", 100, max_tokens=540))
    served(bench, 1.0, 20)
    assert all(report.profile is None for report in bench.reports)
    served(bench, 2.0, 500)
    told = [(report.counter, report.profile) for report in bench.reports if report.profile is not None]
    assert told[0][1] == PROFILE.scaled(2.0)
    first, last = told[0][0], bench.reports[-1].counter
    assert [counter for counter, _ in told[1:]] == [counter for counter in range(first + 1, last + 1) if counter % 10 == 0]


def test_a_worker_without_a_profile_corrects_none() -> None:
    bench = Bench()
    bench.assign(SPEC)
    served(bench, 9.0, 2)
    assert bench.core.speed_factor == 1.0
    assert all(report.profile is None for report in bench.reports)
