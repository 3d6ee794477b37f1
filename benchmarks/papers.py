"""The paper's comparison, simulated: one A100 beside an A10 or an A30, two models, the Azure conversation trace, every policy.

For each cell: throughput of all requests at once beside the fluid bound, then TTFT at shares of cronus's throughput and at one
common low rate. All policies share the token budget. Writes `benchmarks/results/papers.json` and prints the tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from benchmarks.rows import Row, write_rows
from cli.simulate import SCHEDULED
from scheduler.simulation.serving.figures import Figures, Targets, figures, table
from scheduler.simulation.serving.fluid import fluid_bound
from scheduler.simulation.serving.plan import ClusterPlan, read_cluster
from scheduler.simulation.serving.trace import as_poisson, at_rate, read_trace
from scheduler.simulation.serving.world import Serving, ServingWorld

CLUSTERS = Path("examples/clusters")
CELLS = ("a100-a10-llama", "a100-a30-llama", "a100-a10-qwen2", "a100-a30-qwen2")
OURS, THEIRS = "headstart", "cronus"
OTHERS = (
    "data-parallel-round-robin",
    "data-parallel-weighted",
    "data-parallel-least-work",
    "disagg-low-high",
    "disagg-high-low",
    "high-only",
)
LOADS = (0.8, 0.95)
LOW_RATE = 2.0
"""Requests a second, common to all cells."""
THROUGHPUT_TARGET, BOUND_TARGET, TTFT_TARGET = 1.08, 0.95, 1 / 0.85


@dataclass(frozen=True, slots=True)
class Job:
    cell: str
    policy: str
    rate: float
    """Requests a second, as a Poisson process; 0: all at once."""
    trace: Path
    requests: int
    seed: int


def main() -> None:
    arguments = _arguments()
    with ProcessPoolExecutor(arguments.processes) as pool, _progress() as progress:
        flood = [Job(cell, policy, 0.0, *_common(arguments)) for cell in arguments.cells for policy in arguments.policies]
        most = dict(zip(flood, _all(pool, progress, "all at once", flood), strict=True))
        loads = [replace(job, rate=rate) for job in flood if job.policy in arguments.loaded for rate in _rates(job, most)]
        loaded = dict(zip(loads, _all(pool, progress, "under load", loads), strict=True))
    rows: list[Row] = []
    for cell in arguments.cells:
        rows += _report(cell, arguments, most, loaded)
    write_rows("papers", rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", type=Path, required=True, help="AzureLLMInferenceTrace_conv.csv of the Azure public data set")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--cells", nargs="+", default=list(CELLS), choices=CELLS)
    parser.add_argument("--policies", nargs="+", default=[OURS, THEIRS, *OTHERS])
    parser.add_argument("--loaded", nargs="+", default=[OURS, THEIRS], help="policies that also run under load")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    missing = {OURS, THEIRS} - set(arguments.policies)
    if missing:
        parser.error(f"--policies: the comparison needs {', '.join(sorted(missing))}")
    return arguments


def _common(arguments: argparse.Namespace) -> tuple[Path, int, int]:
    return arguments.trace, arguments.requests, arguments.seed


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(console=console, disable=not console.is_terminal)


def _all(pool: ProcessPoolExecutor, progress: Progress, what: str, jobs: list[Job]) -> Iterable[Figures]:
    return list(progress.track(pool.map(_run, jobs), description=what, total=len(jobs)))


def _run(job: Job) -> Figures:
    plan, trace = _plan(job.cell), read_trace(job.trace, job.requests)
    arrivals = as_poisson(trace, job.rate, job.seed) if job.rate else at_rate(trace, 0)
    world = ServingWorld(Serving(plan, arrivals, replace(SCHEDULED, policy=job.policy), job.seed))
    world.run()
    return figures(job.policy, world, Targets())


def _plan(cell: str) -> ClusterPlan:
    return read_cluster(CLUSTERS / f"{cell}.toml")


def _rates(job: Job, most: dict[Job, Figures]) -> list[float]:
    """Shares of what cronus reached in this cell, and the common low rate."""
    reached = most[replace(job, policy=THEIRS)].requests_per_s
    return [*(round(share * reached, 3) for share in LOADS), LOW_RATE]


def _report(cell: str, arguments: argparse.Namespace, most: dict[Job, Figures], loaded: dict[Job, Figures]) -> list[Row]:
    first = Job(cell, OURS, 0.0, *_common(arguments))
    bound = fluid_bound(_plan(cell), read_trace(arguments.trace, arguments.requests)).requests_per_s
    print(
        f"\n{cell}: fluid bound {bound:.3f} req/s\n{table([most[replace(first, policy=policy)] for policy in arguments.policies], bound)}"
    )
    for rate in _rates(first, most):
        shown = [loaded[replace(first, policy=policy, rate=rate)] for policy in arguments.policies if policy in arguments.loaded]
        print(f"at {rate:.2f} req/s\n{table(shown, bound)}")
    return _rows(cell, first, bound, most, loaded)


def _rows(cell: str, first: Job, bound: float, most: dict[Job, Figures], loaded: dict[Job, Figures]) -> list[Row]:
    ours, theirs = most[first].requests_per_s, most[replace(first, policy=THEIRS)].requests_per_s
    rows = [
        Row(f"{cell}: throughput", "req/s", ours, theirs, THEIRS, THROUGHPUT_TARGET),
        Row(f"{cell}: throughput", "req/s", ours, bound, "the fluid bound", BOUND_TARGET),
    ]
    if THEIRS not in {job.policy for job in loaded}:
        return rows
    for rate, name in zip(_rates(first, most), (*(f"{share:.0%} load" for share in LOADS), "a low rate"), strict=True):
        mine, other = (loaded[replace(first, policy=policy, rate=rate)].ttft[-1] for policy in (OURS, THEIRS))
        target = TTFT_TARGET if rate != LOW_RATE else 1.0
        rows.append(Row(f"{cell}: TTFT p99 at {name}", "s", mine, other, THEIRS, target, lower_is_better=True))
    return rows


if __name__ == "__main__":
    main()
