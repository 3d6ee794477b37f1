"""The profile that a worker would have measured of its device: fitted from noisy samples of the hidden model."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from scheduler.simulation.serving.plan import ClusterPlan
from scheduler.simulation.serving.roofline import Device
from shared.profile import Profile, StepShape
from workers.profiler import fit_profile

CONTEXTS = (256, 1024, 4096)
BATCHES = (1, 8, 32, 128)
CHUNK_SHARES = (16, 4, 2, 1)
"""Prefill chunks are measured at these fractions of the token budget."""


def fitted_profile(device: Device, plan: ClusterPlan, rng: Random) -> Profile:
    """What the scheduler is told; `plan.profile_noise` is the relative error of each sample."""
    samples = [(shape, device.step_seconds(shape) * max(0.1, rng.gauss(1.0, plan.profile_noise))) for shape in shapes(plan.token_budget)]
    profile = fit_profile(samples, device.model.kv_bytes_per_token)
    return replace(profile, link_s=plan.link_s, link_bytes_per_s=plan.link_bytes_per_s)


def shapes(token_budget: int) -> list[StepShape]:
    """Prefill alone, decode alone, and mixed, over chunks, batches and contexts."""
    chunks = sorted({max(1, token_budget // share) for share in CHUNK_SHARES})
    prefills = [prefill(chunk, context) for chunk in chunks for context in (0, *CONTEXTS)]
    decodes = [StepShape(0, 0, batch, batch * context) for batch in BATCHES for context in CONTEXTS]
    mixed = [_mixed(chunk, batch, context) for chunk in chunks for batch in BATCHES[1:] for context in CONTEXTS[:2]]
    return prefills + decodes + mixed


def prefill(chunk: int, context: int) -> StepShape:
    """`chunk` tokens of one prompt, behind `context` that are there already."""
    return StepShape(chunk, chunk * context + chunk * (chunk + 1) // 2, 0, 0)


def _mixed(chunk: int, batch: int, context: int) -> StepShape:
    first = prefill(chunk, context)
    return StepShape(first.prefill_tokens, first.prefill_context, batch, batch * context)
