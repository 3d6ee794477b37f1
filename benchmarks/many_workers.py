"""Twelve workers of four kinds (two H100, four A10, four L4, two CPU hosts), simulated: goodput of every policy near what they can do.

Goodput counts the requests a second, until the last answer has ended, that met both targets: TTFT 2 s, mean time between tokens
0.1 s. Prints a table for each arrival rate and one of all, writes `benchmarks/results/many_workers.json`, and a plot to `--out`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.goodput_plot import goodput_table, save_plot
from benchmarks.rows import Row, write_rows
from benchmarks.simulated_runs import CLUSTERS, Job, Runs, arrivals_of
from scheduler.simulation.serving.figures import Figures, table
from scheduler.simulation.serving.fluid import fluid_bound
from scheduler.simulation.serving.plan import read_cluster

CLUSTER = "many-workers"
OURS = "headstart"
OTHERS = (
    "cronus",
    "data-parallel-least-work",
    "data-parallel-weighted",
    "data-parallel-round-robin",
    "disagg-low-high",
    "disagg-high-low",
    "high-only",
)
LOADS = (0.6, 0.8, 1.0, 1.2)
"""Of the fluid bound: below, near and beyond what any policy reaches."""


def main() -> None:
    arguments = _arguments()
    runs = Runs(arguments.kept, arguments.processes)
    first = Job(CLUSTER, OURS, 0.0, arguments.trace, arguments.requests, arguments.seed)
    bound = fluid_bound(read_cluster(CLUSTERS / f"{CLUSTER}.toml"), arrivals_of(first)).requests_per_s
    policies, found = (OURS, *arguments.others), dict[float, list[Figures]]()
    for share in sorted(arguments.loads):
        jobs = [replace(first, policy=policy, rate=round(share * bound, 3)) for policy in policies]
        runs.run(f"{share:.0%} of the bound", jobs)
        found[jobs[0].rate] = [runs[job] for job in jobs]
        print(f"\n{CLUSTER} at {jobs[0].rate:.2f} req/s, {share:.0%} of the fluid bound\n{table(found[jobs[0].rate], bound)}")
    print(f"\n{goodput_table(found)}\n")
    if arguments.out is not None:
        save_plot(found, bound, arguments.out / "goodput.png")
    write_rows("many_workers", [row for rate, figures in found.items() for row in goodput_rows(rate, figures)])


def goodput_rows(rate: float, figures: Sequence[Figures]) -> list[Row]:
    """Ours, the first, beside each other's; a policy without any goodput has no ratio."""
    ours, *others = figures
    name = f"goodput at {rate:.1f} req/s"
    return [Row(name, "req/s", ours.goodput, other.goodput, other.policy, 1.0) for other in others if other.goodput]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, required=True, help="AzureLLMInferenceTrace_conv.csv of the Azure public data set")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--loads", type=float, nargs="+", default=list(LOADS), help="shares of the fluid bound")
    parser.add_argument("--others", nargs="+", default=list(OTHERS), help="policies beside ours")
    parser.add_argument("--kept", type=Path, help="JSON lines of runs, read and written")
    parser.add_argument("--out", type=Path, help="folder for the plot")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
