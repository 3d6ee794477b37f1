"""Unequal instances (arXiv 2504.15303): what the scheduler makes of them, beside the sum of what each serves alone, and round robin.

The paper's clusters, models and data are not published; its gains over round robin are +122.5 % and +33.6 %. Round robin over n
unequal instances serves n times what the slowest does, so no scheduler that gives each request to one instance can gain more
than the sum of throughputs over that, less one. Two clusters shaped like these cases were fixed in `examples/clusters` before
any run. Writes `benchmarks/results/unequal_instances.json`.
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

CASES = {"unequal-several": 1.225, "unequal-two": 0.336}
"""Cluster: what the paper gains over round robin in the case that it is shaped like."""
OURS, ROBIN, WEIGHTED = "headstart", "data-parallel-round-robin", "data-parallel-weighted"
POLICIES = (OURS, "data-parallel-least-work", WEIGHTED, ROBIN)
ALONE = "high-only"
"""The policy of an instance that has nobody beside it."""
EVEN = 2
"""Passes of the trace in one go from which a steady rate is taken; about one for each instance, so that the line is long enough."""
SUM_TARGET = 0.9
LOAD = 0.8
"""Of the sum of throughputs: where latencies are compared."""


def main() -> None:
    arguments = _arguments()
    runs = Runs(arguments.kept, arguments.processes)
    rows: list[Row] = []
    for cluster in arguments.clusters:
        rows += _case(Job(cluster, OURS, 0.0, arguments.trace, arguments.requests, arguments.seed), CASES[cluster], runs)
    write_rows("unequal_instances", rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, required=True, help="AzureLLMInferenceTrace_conv.csv of the Azure public data set")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clusters", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--kept", type=Path, help="JSON lines of runs, read and written")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _case(first: Job, paper: float, runs: Runs) -> list[Row]:
    alone = _alone(first, runs)
    total, most = sum(rate * count for rate, count in alone), most_gain(alone)
    loaded = replace(first, rate=round(LOAD * total, 3))
    jobs = [replace(job, policy=policy) for job in (first, loaded) for policy in POLICIES]
    steady = replace(first, passes=EVEN * -(-sum(count for _, count in alone) // EVEN))
    runs.run(first.cell, [steady, *jobs])
    bound = fluid_bound(read_cluster(CLUSTERS / f"{first.cell}.toml"), arrivals_of(first)).requests_per_s
    print(f"\n{first.cell}: instances alone {' + '.join(f'{count} x {rate:.2f}' for rate, count in alone)} = {total:.2f} req/s")
    print(f"all at once\n{table([runs[job] for job in jobs[: len(POLICIES)]], bound)}")
    print(f"at {loaded.rate:.2f} req/s\n{table([runs[job] for job in jobs[len(POLICIES) :]], bound)}")
    gain = runs[first].requests_per_s / runs[replace(first, policy=ROBIN)].requests_per_s - 1
    print(f"gain over round robin: ours {gain:+.1%}, the paper {paper:+.1%}, at most {most:+.1%} with whole requests\n")
    return [
        Row(f"{first.cell}: steady throughput", "req/s", runs[steady].steady_per_s, total, "the sum of instances alone", SUM_TARGET),
        Row(f"{first.cell}: until the last answer", "req/s", runs[first].requests_per_s, total, "the sum of instances alone", None),
        Row(f"{first.cell}: 1 + gain over round robin", "x", 1 + gain, 1 + paper, "the paper's", None),
        Row(f"{first.cell}: 1 + gain over round robin", "x", 1 + gain, 1 + most, "its bound", None),
        *(row for job, name in ((first, "all at once"), (loaded, f"at {LOAD:.0%} of the sum")) for row in _tails(job, runs, name)),
    ]


def _alone(first: Job, runs: Runs) -> list[tuple[float, int]]:
    """Of each kind of instance: what one serves steadily that has the whole trace for itself, and how many there are."""
    workers = read_cluster(CLUSTERS / f"{first.cell}.toml").workers
    jobs = [replace(first, policy=ALONE, alone=worker.name, passes=EVEN) for worker in workers]
    runs.run(f"{first.cell}: alone", jobs)
    return [(runs[job].steady_per_s, worker.count) for job, worker in zip(jobs, workers, strict=True)]


def most_gain(alone: list[tuple[float, int]]) -> float:
    """Of any scheduler of whole requests over round robin: every instance at its own rate, against all at the slowest's."""
    total, number = sum(rate * count for rate, count in alone), sum(count for _, count in alone)
    return total / (number * min(rate for rate, _ in alone)) - 1


def _tails(job: Job, runs: Runs, name: str) -> list[Row]:
    mine, weighted = runs[job], runs[replace(job, policy=WEIGHTED)]
    return [
        Row(f"{job.cell}: {what} p99 {name}", "s", one[-1], other[-1], WEIGHTED, 1.0, lower_is_better=True)
        for what, one, other in (("TTFT", mine.ttft, weighted.ttft), ("latency", mine.latency, weighted.latency))
    ]


if __name__ == "__main__":
    main()
