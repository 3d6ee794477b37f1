"""Twelve workers of four kinds (two H100, four A10, four L4, two CPU hosts), simulated: goodput of every policy near what they can do.

Goodput counts the requests a second that met both targets: TTFT 2 s, mean time between tokens 0.1 s. Writes
`benchmarks/results/many_workers.json`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from benchmarks.rows import Row, write_rows
from benchmarks.simulated_runs import CLUSTERS, Job, Runs, arrivals_of
from scheduler.simulation.serving.figures import table
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
LOADS = (0.6, 0.8)
"""Of the fluid bound: below and near what any policy reaches."""


def main() -> None:
    arguments = _arguments()
    runs = Runs(arguments.kept, arguments.processes)
    first = Job(CLUSTER, OURS, 0.0, arguments.trace, arguments.requests, arguments.seed)
    bound = fluid_bound(read_cluster(CLUSTERS / f"{CLUSTER}.toml"), arrivals_of(first)).requests_per_s
    rows: list[Row] = []
    for share in arguments.loads:
        jobs = [replace(first, policy=policy, rate=round(share * bound, 3)) for policy in (OURS, *arguments.others)]
        runs.run(f"{share:.0%} of the bound", jobs)
        print(f"\n{CLUSTER} at {jobs[0].rate:.2f} req/s, {share:.0%} of the fluid bound\n{table([runs[job] for job in jobs], bound)}")
        rows += [
            Row(f"goodput at {share:.0%} of the bound", "req/s", runs[jobs[0]].goodput, runs[job].goodput, job.policy, 1.0)
            for job in jobs[1:]
            if runs[job].goodput
        ]
    write_rows("many_workers", rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, required=True, help="AzureLLMInferenceTrace_conv.csv of the Azure public data set")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--loads", type=float, nargs="+", default=list(LOADS), help="shares of the fluid bound")
    parser.add_argument("--others", nargs="+", default=list(OTHERS), help="policies beside ours")
    parser.add_argument("--kept", type=Path, help="JSON lines of runs, read and written")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
