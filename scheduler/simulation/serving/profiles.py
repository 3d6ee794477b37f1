"""The profile that a worker would have measured of its device: the same steps, with noise, and the same fit."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from scheduler.simulation.serving.plan import BLOCK_TOKENS, ClusterPlan
from scheduler.simulation.serving.roofline import Device
from shared.profile import Profile, StepShape
from workers.profile_fit import Measured, fit_profile
from workers.profile_shapes import Bounds, works

MAX_SEQUENCES = 256
MAX_CONTEXT = 4096
ROUNDS = 3
"""Noisy samples of each step, of which the middle one counts."""


def fitted_profile(device: Device, plan: ClusterPlan, rng: Random) -> Profile:
    """What the scheduler is told; `plan.profile_noise` is the relative error of each sample."""
    samples = [(shape, _sample(device, shape, plan, rng)) for shape in shapes(plan.token_budget)]
    profile = fit_profile(samples, device.model.kv_bytes_per_token)
    return replace(profile, link_s=plan.link_s, link_bytes_per_s=plan.link_bytes_per_s)


def shapes(token_budget: int, *, held_out: bool = False) -> list[StepShape]:
    """The steps that a worker with this budget measures, those that it fits to or those that it checks itself by."""
    sequences = min(MAX_SEQUENCES, token_budget)
    bounds = Bounds(token_budget, sequences, MAX_CONTEXT, sequences * MAX_CONTEXT // BLOCK_TOKENS, BLOCK_TOKENS)
    return [work.shape for work in works(bounds) if work.held_out is held_out]


def unseen(device: Device, token_budget: int) -> list[Measured]:
    """The true seconds of the steps that nothing is fitted to."""
    return [(shape, device.step_seconds(shape)) for shape in shapes(token_budget, held_out=True)]


def _sample(device: Device, shape: StepShape, plan: ClusterPlan, rng: Random) -> float:
    seconds = device.step_seconds(shape)
    return sorted(seconds * max(0.1, rng.gauss(1.0, plan.profile_noise)) for _ in range(ROUNDS))[ROUNDS // 2]
