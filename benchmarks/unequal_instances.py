"""Unequal instances (arXiv 2504.15303): what the scheduler makes of them, beside the sum of what each serves alone, and round robin.

The paper's clusters, models and data are not published; its gains over round robin are +122.5 % and +33.6 %. Round robin over n
unequal instances serves n times what the slowest does, so no scheduler can gain more than the sum of throughputs over that,
less one. Two clusters shaped like these cases were fixed in `examples/clusters` before any run. Writes
`benchmarks/results/unequal_instances.json`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from benchmarks.rows import Row, write_rows
from benchmarks.simulated_runs import CLUSTERS, Job, Runs, arrivals_of
from cli.simulate import SCHEDULED
from scheduler.simulation.serving.figures import Targets, figures, table
from scheduler.simulation.serving.fluid import fluid_bound
from scheduler.simulation.serving.plan import ClusterPlan, WorkerPlan, read_cluster
from scheduler.simulation.serving.policies import simulate
from scheduler.simulation.serving.world import Serving

CASES = {"unequal-several": 1.225, "unequal-two": 0.336}
"""Cluster: what the paper gains over round robin in the case that it is shaped like."""
OURS, ROBIN, WEIGHTED = "headstart", "data-parallel-round-robin", "data-parallel-weighted"
POLICIES = (OURS, "data-parallel-least-work", WEIGHTED, ROBIN)
SUM_TARGET = 0.9
LOAD = 0.8
"""Of the sum of throughputs: where latencies are compared."""


def main() -> None:
    arguments = _arguments()
    runs = Runs(arguments.kept, arguments.processes)
    rows: list[Row] = []
    for cluster, paper in CASES.items():
        rows += _case(Job(cluster, OURS, 0.0, arguments.trace, arguments.requests, arguments.seed), paper, runs)
    write_rows("unequal_instances", rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, required=True, help="AzureLLMInferenceTrace_conv.csv of the Azure public data set")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--kept", type=Path, help="JSON lines of runs, read and written")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _case(first: Job, paper: float, runs: Runs) -> list[Row]:
    plan = read_cluster(CLUSTERS / f"{first.cell}.toml")
    alone = [(_alone(plan, worker, first), worker.count) for worker in plan.workers]
    total, number = sum(rate * count for rate, count in alone), sum(count for _, count in alone)
    most = total / (number * min(rate for rate, _ in alone)) - 1
    loaded = replace(first, rate=round(LOAD * total, 3))
    jobs = [replace(job, policy=policy) for job in (first, loaded) for policy in POLICIES]
    runs.run(first.cell, jobs)
    bound = fluid_bound(plan, arrivals_of(first)).requests_per_s
    print(f"\n{first.cell}: instances alone {' + '.join(f'{count} x {rate:.2f}' for rate, count in alone)} = {total:.2f} req/s")
    print(f"all at once\n{table([runs[job] for job in jobs[: len(POLICIES)]], bound)}")
    print(f"at {loaded.rate:.2f} req/s\n{table([runs[job] for job in jobs[len(POLICIES) :]], bound)}")
    gain = runs[first].requests_per_s / runs[replace(first, policy=ROBIN)].requests_per_s - 1
    print(f"gain over round robin: ours {gain:+.1%}, the paper {paper:+.1%}, at most {most:+.1%}")
    return [
        Row(f"{first.cell}: throughput", "req/s", runs[first].requests_per_s, total, "the sum of instances alone", SUM_TARGET),
        Row(f"{first.cell}: gain over round robin", "x", 1 + gain, 1 + paper, "the paper's", None),
        *(_tail(job, runs, name) for job, name in ((first, "all at once"), (loaded, f"at {LOAD:.0%} of the sum"))),
    ]


def _alone(plan: ClusterPlan, worker: WorkerPlan, first: Job) -> float:
    """Requests a second of one instance that has the trace for itself: its share of the requests, all at once."""
    single = replace(plan, workers=(replace(worker, count=1),))
    number = sum(each.count for each in plan.workers)
    arrivals = arrivals_of(first)[::number]
    ran = simulate("high-only", Serving(single, arrivals, SCHEDULED, first.seed))
    return figures("alone", ran, Targets()).requests_per_s


def _tail(job: Job, runs: Runs, name: str) -> Row:
    mine, weighted = runs[job].ttft[-1], runs[replace(job, policy=WEIGHTED)].ttft[-1]
    return Row(f"{job.cell}: TTFT p99 {name}", "s", mine, weighted, WEIGHTED, 1.0, lower_is_better=True)


if __name__ == "__main__":
    main()
