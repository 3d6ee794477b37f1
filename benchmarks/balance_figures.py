"""From cells to rows: medians over rounds, paired intervals, and what was promised."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import median

import numpy as np

from benchmarks.balance_cell import Cell
from benchmarks.intervals import quantile_ratio_interval, ratio_interval
from benchmarks.rows import Row

OURS = "headstart"
HIGH_ONLY = "high-only"
DISAGGREGATED = ("disagg-low-high", "disagg-high-low")
DATA_PARALLEL = ("data-parallel-round-robin", "data-parallel-weighted", "data-parallel-least-work")
CRONUS = "cronus"
POLICIES = (OURS, HIGH_ONLY, *DISAGGREGATED, CRONUS, *DATA_PARALLEL)
TAIL_LIMIT = 1.10
TARGETS = {"disaggregation": 1.2, HIGH_ONLY: 1.15, "data parallel": 0.97}


class Cells:
    """All cells of a run."""

    def __init__(self, cells: Iterable[Cell]) -> None:
        self._cells = sorted(cells, key=lambda cell: (cell.load, cell.policy, cell.round))

    def __iter__(self) -> Iterator[Cell]:
        return iter(self._cells)

    def of(self, policy: str, load: float = 0.0) -> list[Cell]:
        """In order of the rounds."""
        return [cell for cell in self._cells if cell.policy == policy and cell.load == load]

    @property
    def policies(self) -> list[str]:
        """At saturation, in the order of `POLICIES`."""
        there = {cell.policy for cell in self._cells if not cell.load}
        return [policy for policy in POLICIES if policy in there]

    @property
    def loads(self) -> list[float]:
        return sorted({cell.load for cell in self._cells})

    def throughput(self, policy: str, load: float = 0.0) -> float:
        """Requests per second, the rounds' median."""
        return median(cell.requests_per_s for cell in self.of(policy, load))

    def best(self, policies: Sequence[str]) -> str | None:
        """The one with the highest throughput at saturation; None if none of them ran."""
        there = [policy for policy in policies if policy in self.policies]
        return max(there, key=self.throughput) if there else None


def rows(cells: Cells) -> list[Row]:
    """Every comparison that the run allows."""
    if OURS not in cells.policies:
        return []
    rivals = {"disaggregation": cells.best(DISAGGREGATED), HIGH_ONLY: cells.best([HIGH_ONLY]), "data parallel": cells.best(DATA_PARALLEL)}
    promised = [_throughput(cells, rival, TARGETS[kind]) for kind, rival in rivals.items() if rival]
    others = [_throughput(cells, policy, None) for policy in cells.policies if policy not in (OURS, *rivals.values())]
    variant = rivals["data parallel"]
    tails = [row for load in cells.loads if variant and cells.of(variant, load) for row in _tails(cells, variant, load)]
    return [*promised, *others, *tails]


def _throughput(cells: Cells, rival: str, target: float | None) -> Row:
    rates = {policy: [cell.requests_per_s for cell in cells.of(policy)] for policy in (OURS, rival)}
    interval = ratio_interval(rates[OURS], rates[rival])
    ours, theirs = cells.throughput(OURS), cells.throughput(rival)
    return Row("throughput, all at once", "req/s", ours, theirs, rival, target, interval=(interval.low, interval.high))


def _tails(cells: Cells, variant: str, load: float) -> list[Row]:
    at = f"at {load:.0%} load" if load else "all at once"
    return [
        row
        for name, samples in (("TTFT", lambda cell: cell.ttft_s), ("ITL", lambda cell: cell.gaps_s))
        for row in _tail(f"{name} p99, {at}", cells.of(OURS, load), cells.of(variant, load), samples)
    ]


def _tail(name: str, ours: Sequence[Cell], theirs: Sequence[Cell], samples: Callable[[Cell], tuple[float, ...]]) -> list[Row]:
    """The figure itself, and the upper bound of its ratio beside its limit. The rows' ratio is above 1 where ours is better."""
    mine, other = ([samples(cell) for cell in side] for side in (ours, theirs))
    interval = quantile_ratio_interval(mine, other, 99)
    slow, slower = quantile_of(mine, 99), quantile_of(other, 99)
    variant = theirs[0].policy
    return [
        Row(name, "s", slow, slower, variant, None, lower_is_better=True, interval=(1 / interval.high, 1 / interval.low)),
        Row(f"{name}: upper bound of the ratio", "x", interval.high, TAIL_LIMIT, f"the limit against {variant}", 1.0, lower_is_better=True),
    ]


def quantile_of(rounds: Sequence[Sequence[float]], percent: float) -> float:
    """Of all rounds' samples together."""
    return float(np.percentile([sample for samples in rounds for sample in samples], percent))


def table(cells: Cells) -> str:
    """One line for each policy and load: medians over the rounds."""
    head = (
        f"{'load':>5} {'policy':26} {'req/s':>6} {'steady':>6} {'tok/s':>6} {'TTFT p50':>8} {'p99':>6} {'ITL p50':>7} {'p99':>5}"
        f" {'cut':>5} {'MiB':>6} {'wasted':>6} {'others CPU':>10}  step ms"
    )
    return "\n".join([head, *(_line(cells, policy, load) for load in cells.loads for policy in POLICIES if cells.of(policy, load))])


def _line(cells: Cells, policy: str, load: float) -> str:
    there = cells.of(policy, load)
    ttft, itl = [cell.ttft_s for cell in there], [cell.gaps_s for cell in there]

    def mid(look: Callable[[Cell], float]) -> float:
        return median(map(look, there))

    steps = " ".join(f"{name} {median(cell.step_ms[name] for cell in there):.0f}" for name in there[0].step_ms)
    return (
        f"{f'{load:.0%}' if load else 'all':>5} {policy:26}"
        f" {mid(lambda cell: cell.requests_per_s):6.2f} {mid(lambda cell: cell.steady_per_s):6.2f}"
        f" {mid(lambda cell: cell.tokens_per_s):6.0f} {quantile_of(ttft, 50):8.2f} {quantile_of(ttft, 99):6.2f}"
        f" {quantile_of(itl, 50) * 1e3:7.0f} {quantile_of(itl, 99) * 1e3:5.0f} {mid(lambda cell: cell.cut_share):5.0%}"
        f" {mid(lambda cell: cell.moved_mib):6.1f} {mid(lambda cell: float(cell.head_starts['wasted'])):6.0f}"
        f" {mid(others_cpu_s):8.1f} s  {steps}"
    )


def others_cpu_s(cell: Cell) -> float:
    """CPU seconds of everybody but the workers."""
    return sum(seconds for name, seconds in cell.cpu_s.items() if name not in cell.step_ms)
