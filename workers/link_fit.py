"""A link from timed transfers: a fixed part and a rate, and how far they are from sizes that they have not seen."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import numpy as np
from scipy.optimize import nnls

Link = list[tuple[int, float]]
"""(bytes, seconds) of transfers, by size: the least of some rounds, since whatever disturbs a transfer makes it longer."""


def fit_link(link: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """(fixed seconds, bytes a second): non-negative least squares, relative errors weighted alike."""
    taken = np.array([seconds for _, seconds in link])
    rows = np.array([(1.0, nbytes * 1e-9) for nbytes, _ in link]) / taken[:, None]
    fixed, per_gigabyte = nnls(rows, np.ones(len(taken)))[0]
    return float(fixed), 1e9 / max(float(per_gigabyte), 1e-3)


def fitted_sizes(link: Link) -> Link:
    """Every second size, the smallest and the largest among them where there is an odd number; of two, both."""
    return link[::2] if len(link) > 2 else link


def held_out_sizes(link: Link) -> Link:
    """Those between."""
    return link[1::2] if len(link) > 2 else []


def link_error(fixed: float, bytes_per_s: float, link: Sequence[tuple[int, float]]) -> float | None:
    """Median relative error; None where nothing was held out."""
    return median(abs((fixed + nbytes / bytes_per_s) / max(seconds, 1e-9) - 1) for nbytes, seconds in link) if link else None


def growing_sizes(most: int) -> list[int]:
    """An odd number of sizes from `most` down, each half of the next, four powers of two apart at the most for what is fitted."""
    sizes = sorted({max(1, most >> power) for power in range(7)})
    return sizes if len(sizes) % 2 or len(sizes) < 3 else sizes[1:]
