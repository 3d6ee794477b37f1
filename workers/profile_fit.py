"""Fits a profile to measured steps, and says how far it is from steps that it has not seen.

The model (`Profile.step_seconds`) is linear in its seconds once `free_tokens` is chosen, so that is tried over a grid, and the
rest are non-negative least squares of the relative error (Lawson and Hanson, 1974), reweighted towards the least absolute error:
a moment in which somebody else took the machine spoils single measurements, and must not bend the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from shared.profile import Profile, StepShape
from workers.profile_shapes import StepClass, class_of

Measured = tuple[StepShape, float]
"""A step's shape and the seconds that it took."""
TOKENS, DECODES = 1, 3
"""Columns of the terms."""
Floats = npt.NDArray[np.float64]

HINGES = 24
"""Values of `free_tokens` that are tried beside 0."""
REWEIGHTINGS = 6
LEAST_MISS = 0.02
"""Relative errors below it weigh alike."""
WORTH_A_TERM = 0.95
"""A hinge is believed if it leaves at most this share of the error that is there without."""


def fit_profile(measured: Sequence[Measured], kv_bytes_per_token: int) -> Profile:
    """The profile whose steps come closest to the measured ones, relative errors weighted alike. The link keeps its defaults."""
    rows: Floats = np.array([_terms(shape) for shape, _ in measured])
    taken: Floats = np.array([max(seconds, 1e-9) for _, seconds in measured])
    most = float((rows[:, TOKENS] + rows[:, DECODES]).max())
    without, plain = _fit(rows, taken, 0.0, kv_bytes_per_token)
    hinges = np.geomspace(1.0, max(2.0, 0.75 * most), HINGES)
    with_hinge, hinged = min((_fit(rows, taken, float(hinge), kv_bytes_per_token) for hinge in hinges), key=lambda fit: fit[0])
    return hinged if with_hinge < WORTH_A_TERM * without - 1e-6 else plain


def miss(profile: Profile, shape: StepShape, seconds: float) -> float:
    """The relative error of one predicted step."""
    return abs(profile.step_seconds(shape) / max(seconds, 1e-9) - 1)


def errors(profile: Profile, measured: Iterable[Measured]) -> dict[StepClass, float]:
    """Median relative error of each class of steps that is among the measured ones."""
    misses: dict[StepClass, list[float]] = {}
    for shape, seconds in measured:
        misses.setdefault(class_of(shape), []).append(miss(profile, shape, seconds))
    return {kind: median(misses[kind]) for kind in StepClass if kind in misses}


def _fit(rows: Floats, taken: Floats, free_tokens: float, kv_bytes_per_token: int) -> tuple[float, Profile]:
    """The best profile with this hinge, and the mean relative error that it leaves."""
    terms = rows.copy()
    if free_tokens:
        terms[:, TOKENS] = np.maximum(0.0, rows[:, TOKENS] + rows[:, DECODES] - free_tokens)
    found = least_absolute(terms / taken[:, None])
    step, token, pair, decode, context = map(float, found)
    profile = Profile(step, token, pair, decode, context, kv_bytes_per_token, free_tokens=free_tokens)
    return float(np.abs(terms @ found / taken - 1).mean()), profile


def _terms(shape: StepShape) -> tuple[float, ...]:
    """What the five seconds of a profile without a hinge are multiplied by."""
    return (1.0, shape.prefill_tokens, shape.prefill_context, shape.decodes, shape.decode_context)


def least_absolute(relative: Floats) -> Floats:
    """The x >= 0 for which `relative @ x` is closest to 1 in every row: iteratively reweighted least squares."""
    scale = np.maximum(np.abs(relative).max(axis=0), 1e-30)
    weights = np.ones(len(relative))
    found: Floats = np.zeros(relative.shape[1])
    for _ in range(REWEIGHTINGS):
        found = nnls(relative / scale * weights[:, None], weights)[0]
        weights = 1 / np.sqrt(np.maximum(np.abs(relative / scale @ found - 1), LEAST_MISS))
    unscaled: Floats = found / scale
    return unscaled
