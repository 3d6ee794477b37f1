"""The run as one picture: throughput of every policy, and the tails of ours beside the best data-parallel variant's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.balance_figures import DATA_PARALLEL, OURS, Cells


def save_plot(cells: Cells, path: Path) -> None:
    figure = Figure(figsize=(15, 4.5), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _throughput(left, cells)
    variant = cells.best(DATA_PARALLEL)
    compared = [policy for policy in (OURS, variant) if policy]
    _tail(middle, cells, compared, "ttft_s", "time to first token (s)")
    _tail(right, cells, compared, "gaps_s", "between two tokens (s)")
    figure.savefig(path, dpi=110)


def _throughput(axes: Axes, cells: Cells) -> None:
    """A bar at the rounds' median, a dot for each round."""
    policies = cells.policies[::-1]
    axes.barh(policies, [cells.throughput(policy) for policy in policies], color="#9ecae1")
    for at, policy in enumerate(policies):
        rates = [cell.requests_per_s for cell in cells.of(policy)]
        axes.plot(rates, [at] * len(rates), "o", color="#08519c", markersize=4)
    axes.set_xlabel("requests per second, all at once")


def _tail(axes: Axes, cells: Cells, policies: list[str], what: str, label: str) -> None:
    """Share of samples above a value, on logarithmic axes: the tail is what is promised."""
    for policy, style in zip(policies, ("-", "--"), strict=False):
        for at, load in enumerate(cells.loads):
            samples = np.sort([sample for cell in cells.of(policy, load) for sample in getattr(cell, what)])
            if len(samples):
                above = 1 - np.arange(len(samples)) / len(samples)
                name = f"{policy}, {f'{load:.0%}' if load else 'all at once'}"
                axes.plot(samples, above, style, color=f"C{at}", label=name, linewidth=1.2)
    axes.set(xscale="log", yscale="log", xlabel=label, ylabel="share above")
    axes.axhline(0.01, color="grey", linewidth=0.6)
    axes.legend(fontsize=7)
