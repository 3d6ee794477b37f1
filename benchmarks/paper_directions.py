"""What arXiv 2509.17357 reports of its system, "up to", over its four cells; and what ours does in the same cells.

The paper's figures are of its own testbed and rates, which are not published: directions are compared, not values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from benchmarks.simulated_runs import Job, Runs
from scheduler.simulation.serving.figures import Figures

DISAGGREGATED = ("disagg-low-high", "disagg-high-low")
DATA_PARALLEL = ("data-parallel-round-robin", "data-parallel-least-work")
PIPELINE = ("pipeline-parallel",)
WORST_CELL = "a100-a10-llama"

REDUCTIONS: tuple[tuple[str, tuple[str, ...], Callable[[Figures], float], float], ...] = (
    ("TTFT p99", DATA_PARALLEL, lambda figures: figures.ttft[-1], -0.55),
    ("TTFT p99", PIPELINE, lambda figures: figures.ttft[-1], -0.58),
    ("time between tokens p99", DATA_PARALLEL, lambda figures: figures.itl[-1], -0.63),
    ("time between tokens p99", PIPELINE, lambda figures: figures.itl[-1], -0.70),
)
"""What, against whom, and the paper's largest change."""


def directions(floods: Sequence[Job], loads: Sequence[Job], runs: Runs) -> Iterator[str]:
    """One line for each; `floods` and `loads` are jobs of ours, all at once and under load. What was not run is left out."""
    yield "The paper's directions, and ours:"
    for first in floods:
        if first.cell == WORST_CELL:
            yield from _worst(first, runs)
    yield from _most_over_disaggregation(floods, runs)
    for what, others, pick, paper in REDUCTIONS:
        for other in others:
            changes = [(_change(job, other, pick, runs), job) for job in loads if replace(job, policy=other) in runs]
            if changes:
                most, job = min(changes, key=lambda change: change[0])
                where = f"{job.cell} at {job.rate:g} req/s"
                yield f"  {what} against {other}: paper up to {paper:+.0%}, ours up to {most:+.0%} ({where}) {_verdict(most < 0)}"


def _worst(first: Job, runs: Runs) -> Iterator[str]:
    found = {other: runs[replace(first, policy=other)].requests_per_s for other in _run_ones(first, runs)}
    if "disagg-high-low" in found:
        worst = min(found, key=lambda other: found[other])
        yield f"  {WORST_CELL}: worst throughput: paper disagg-high-low, ours {worst} {_verdict(worst == 'disagg-high-low')}"


def _run_ones(first: Job, runs: Runs) -> list[str]:
    known = (first.policy, "cronus", *DISAGGREGATED, *DATA_PARALLEL, "data-parallel-weighted", "high-only", *PIPELINE)
    return [other for other in known if replace(first, policy=other) in runs]


def _most_over_disaggregation(floods: Sequence[Job], runs: Runs) -> Iterator[str]:
    gains = [
        (runs[job].requests_per_s / runs[theirs].requests_per_s, theirs)
        for job in floods
        for other in DISAGGREGATED
        if (theirs := replace(job, policy=other)) in runs
    ]
    if gains:
        most, job = max(gains, key=lambda gain: gain[0])
        yield f"  throughput over disaggregation: paper up to 5.64x, ours up to {most:.2f}x ({job.policy}, {job.cell}) {_verdict(most > 1)}"


def _change(job: Job, other: str, pick: Callable[[Figures], float], runs: Runs) -> float:
    return pick(runs[job]) / pick(runs[replace(job, policy=other)]) - 1


def _verdict(holds: bool) -> str:
    return "- the direction holds" if holds else "- MISSED"
