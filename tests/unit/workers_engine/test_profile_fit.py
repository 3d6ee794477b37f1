"""The fit: the terms of a device are found again, whatever disturbs single measurements; shapes that are held out stay unseen."""

from __future__ import annotations

from dataclasses import astuple, replace
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.simulation.serving.hardware import find_gpu, find_model
from scheduler.simulation.serving.plan import ClusterPlan, WorkerPlan
from scheduler.simulation.serving.profiles import fitted_profile, unseen
from shared.profile import Profile
from workers.link_fit import fit_link
from workers.profile_fit import errors, fit_profile, least_absolute
from workers.profile_shapes import Bounds, StepClass, Work, class_of, works

GPU = Profile(0.012, 7e-5, 2e-9, 2e-5, 4e-8, 1, free_tokens=130.0)
CPU = Profile(0.004, 2e-4, 3e-8, 5e-4, 1e-6, 1)
BOUNDS = Bounds(512, 64, 2048, 10_000, 16)
FITTED = [work.shape for work in works(BOUNDS) if not work.held_out]
HELD_OUT = [work.shape for work in works(BOUNDS) if work.held_out]


@pytest.mark.parametrize("device", [CPU, replace(CPU, step_s=0.0), replace(CPU, prefill_pair_s=0.0, decode_s=0.0)])
def test_an_additive_device_is_found_exactly(device: Profile) -> None:
    found = fit_profile([(shape, device.step_seconds(shape)) for shape in FITTED], 1)
    assert astuple(found) == pytest.approx(astuple(device), rel=1e-3, abs=1e-12)


def test_a_hinge_is_found_and_an_additive_fit_would_miss_it() -> None:
    found = fit_profile([(shape, GPU.step_seconds(shape)) for shape in FITTED], 1)
    assert found.free_tokens == pytest.approx(130, rel=0.2)
    assert max(errors(found, [(shape, GPU.step_seconds(shape)) for shape in HELD_OUT]).values()) < 0.02


def test_measurements_that_somebody_disturbed_do_not_bend_the_rest() -> None:
    rng = Random(5)
    spoiled = [(shape, CPU.step_seconds(shape) * (3.0 if number % 6 == 0 else rng.gauss(1.0, 0.02))) for number, shape in enumerate(FITTED)]
    assert max(errors(fit_profile(spoiled, 1), [(shape, CPU.step_seconds(shape)) for shape in HELD_OUT]).values()) < 0.05


@pytest.mark.parametrize("model", ["llama-3-8b", "qwen2-7b"])
@pytest.mark.parametrize("gpu", ["A100-80G-SXM", "A10", "A30"])
def test_the_papers_gpus_are_known_to_ten_per_cent_in_each_class_at_every_budget(model: str, gpu: str) -> None:
    """Median errors over steps that were not fitted to, against the hidden device, from samples with 3 % noise."""
    for budget in (128, 512, 2048):
        plan = ClusterPlan("one", find_model(model), (WorkerPlan("gpu", find_gpu(gpu)),), token_budget=budget)
        device = plan.workers[0].device(plan.model)
        found = errors(fitted_profile(device, plan, Random(7)), unseen(device, budget))
        assert set(found) == set(StepClass)
        assert max(found.values()) < 0.10


def test_the_fit_is_not_beaten_from_nearby() -> None:
    """The least absolute error, up to where errors weigh alike."""
    rng = np.random.default_rng(3)
    rows = np.abs(rng.normal(1.0, 0.4, size=(30, 4)))
    rows /= (rows @ np.array([0.2, 0.0, 0.5, 0.1]) * rng.normal(1.0, 0.05, 30))[:, None]
    found = least_absolute(rows)
    reached = np.abs(rows @ found - 1).mean()
    assert (found >= 0).all()
    for _ in range(200):
        other = np.maximum(0.0, found * rng.normal(1.0, 0.1, 4) + rng.normal(0.0, 0.01, 4))
        assert np.abs(rows @ other - 1).mean() > reached - 0.004


def test_a_link_is_a_fixed_part_and_a_rate() -> None:
    fixed, rate = fit_link([(nbytes, 0.003 + nbytes / 2e9) for nbytes in (1 << 16, 1 << 20, 1 << 24)])
    assert fixed == pytest.approx(0.003, rel=1e-3)
    assert rate == pytest.approx(2e9, rel=1e-3)


# --- shapes ----------------------------------------------------------------------------------------------------------


@given(
    budget=st.integers(4, 4096),
    sequences=st.integers(2, 300),
    context=st.integers(4, 8192),
    blocks=st.integers(4, 20_000),
    size=st.sampled_from([1, 16, 64]),
)
def test_no_step_asks_for_what_is_not_there(budget: int, sequences: int, context: int, blocks: int, size: int) -> None:
    bounds = Bounds(budget, sequences, min(context, blocks // 2 * size), blocks, size)
    found = works(bounds)
    assert all(bounds.allow(work) for work in found)
    assert all(0 <= work.start <= work.stop <= bounds.max_context for work in found)
    fitted, held_out = ({work.shape for work in found if work.held_out is held} for held in (False, True))
    assert not fitted & held_out


def test_the_beginning_of_the_list_has_every_class_to_fit_and_to_check() -> None:
    first = works(BOUNDS)[:18]
    assert {(class_of(work.shape), work.held_out) for work in first} == {(kind, held) for kind in StepClass for held in (False, True)}


def test_classes() -> None:
    kinds = [class_of(work.shape) for work in (Work(stop=5), Work(decodes=2, context=9), Work(1, 4, 3, 9))]
    assert kinds == [StepClass.PREFILL, StepClass.DECODE, StepClass.MIXED]
