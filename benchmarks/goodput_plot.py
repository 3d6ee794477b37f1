"""Goodput over the arrival rate, one line for each policy: as a table and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from scheduler.simulation.serving.figures import Figures

Found = Mapping[float, Sequence[Figures]]
"""Arrival rate, requests a second: the policies' figures, in the same order at every rate."""


def goodput_table(found: Found) -> str:
    """A line for each policy, a column for each rate: goodput, and the share of requests that met their targets."""
    head = f"{'goodput, share that met':<26}" + "".join(f"{f'at {rate:.1f}/s':>15}" for rate in sorted(found))
    return "\n".join([head, *(_line(policy, found, at) for at, policy in enumerate(_policies(found)))])


def _line(policy: str, found: Found, at: int) -> str:
    cells = [found[rate][at] for rate in sorted(found)]
    return f"{policy:<26}" + "".join(f"{cell.goodput:8.2f} {cell.met:6.1%}" for cell in cells)


def _policies(found: Found) -> list[str]:
    return [figures.policy for figures in next(iter(found.values()), ())]


def save_plot(found: Found, bound: float, path: Path) -> None:
    """Left the goodput, with the fluid bound; right the share of requests that met their targets, which draining does not touch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    rates = sorted(found)
    for at, policy in enumerate(_policies(found)):
        width = 2.4 if at == 0 else 1.2
        left.plot(rates, [found[rate][at].goodput for rate in rates], "o-", label=policy, linewidth=width, markersize=4)
        right.plot(rates, [found[rate][at].met for rate in rates], "o-", linewidth=width, markersize=4)
    left.axhline(bound, color="black", linestyle="--", linewidth=1, label="fluid bound")
    left.set(xlabel="arrivals, requests per second", ylabel="goodput, requests per second", ylim=(0, None))
    right.set(xlabel="arrivals, requests per second", ylabel="share of requests that met both targets", ylim=(0, 1.02))
    left.legend(fontsize=7)
    figure.savefig(path, dpi=110, metadata={"Software": None})
