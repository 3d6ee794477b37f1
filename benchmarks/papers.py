"""The paper's comparison, simulated: one A100 beside an A10 or an A30, two models, the Azure conversation trace, every policy.

For each cell: throughput of all requests at once beside the fluid bound, then latencies at shares of cronus's throughput and at
one common low rate; of ours and of cronus TTFT p99 in the mean over several arrivals too. All policies share the token budget
and one limit on the time between tokens. Prints the tables and the paper's directions beside ours; writes
`benchmarks/results/papers.json`, and plots with one page to `--out`.

    python -m benchmarks.papers --trace AzureLLMInferenceTrace_conv.csv --kept runs.jsonl

`--requests 4000` is the steady state, at four times the cost; `--kept` goes on where an earlier call was broken off.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from benchmarks.paper_directions import directions
from benchmarks.rows import Row, write_rows
from benchmarks.simulated_runs import CLUSTERS, Job, Runs, arrivals_of
from scheduler.simulation.serving.figures import table
from scheduler.simulation.serving.fluid import fluid_bound
from scheduler.simulation.serving.page import Section, write_page
from scheduler.simulation.serving.plan import read_cluster
from scheduler.simulation.serving.policies import SIMULATED

CELLS = ("a100-a10-llama", "a100-a30-llama", "a100-a10-qwen2", "a100-a30-qwen2")
OURS, THEIRS = "headstart", "cronus"
OTHERS = (
    "data-parallel-round-robin",
    "data-parallel-weighted",
    "data-parallel-least-work",
    "disagg-low-high",
    "disagg-high-low",
    "high-only",
    "pipeline-parallel",
)
LOADED = (OURS, THEIRS, "data-parallel-round-robin", "data-parallel-least-work", "pipeline-parallel")
LOADS = (0.8, 0.95)
LOW_RATE = 2.0
"""Requests a second, common to all cells."""
THROUGHPUT_TARGET, BOUND_TARGET, TTFT_TARGET = 1.08, 0.95, 1 / 0.85


def main() -> None:
    arguments = _arguments()
    runs = Runs(arguments.kept, arguments.processes)
    floods = [
        Job(cell, policy, 0.0, arguments.trace, arguments.requests, arguments.seed)
        for cell in arguments.cells
        for policy in arguments.policies
    ]
    runs.run("all at once", floods)
    loads = [replace(job, rate=rate) for job in floods if job.policy in arguments.loaded for rate in rates(job, runs)]
    runs.run("under load", loads)
    if arguments.tail_seeds > 1:
        runs.run("other arrivals", [other for job in loads for other in tail_jobs(job, arguments.tail_seeds)])
    rows: list[Row] = []
    sections: list[Section] = []
    for cell in arguments.cells:
        rows += _cell(Job(cell, OURS, 0.0, arguments.trace, arguments.requests, arguments.seed), arguments, runs, sections)
    text = "\n".join(directions([job for job in floods if job.policy == OURS], [job for job in loads if job.policy == OURS], runs))
    print(f"\n{text}\n")
    write_rows("papers" if arguments.requests == 1000 else f"papers-{arguments.requests}", rows)
    if arguments.out is not None:
        write_page(arguments.out, [*sections, Section("", text, 0.0, [])])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, required=True, help="AzureLLMInferenceTrace_conv.csv of the Azure public data set")
    parser.add_argument("--requests", type=int, default=1000, help="the first so many; 1000 as in the paper, 4000 for a steady state")
    parser.add_argument("--cells", nargs="+", default=list(CELLS), choices=CELLS)
    parser.add_argument("--policies", nargs="+", default=[OURS, THEIRS, *OTHERS], choices=SIMULATED)
    parser.add_argument("--loaded", nargs="*", default=list(LOADED), help="policies that also run under load")
    parser.add_argument("--tail-seeds", type=int, default=6, help="arrivals of which TTFT p99 is told in the mean too; 1: only of --seed")
    parser.add_argument("--kept", type=Path, help="JSON lines of runs, read and written")
    parser.add_argument("--out", type=Path, help="folder for plots and one page")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    missing = {OURS, THEIRS} - set(arguments.policies)
    if missing:
        parser.error(f"--policies: the comparison needs {', '.join(sorted(missing))}")
    return arguments


def rates(job: Job, runs: Runs) -> list[float]:
    """Shares of what cronus reached in this cell, and the common low rate."""
    reached = runs[replace(job, policy=THEIRS, rate=0.0)].requests_per_s
    return [*(round(share * reached, 3) for share in LOADS), LOW_RATE]


def _cell(first: Job, arguments: argparse.Namespace, runs: Runs, sections: list[Section]) -> list[Row]:
    bound = fluid_bound(read_cluster(CLUSTERS / f"{first.cell}.toml"), arrivals_of(first)).requests_per_s
    for rate in (0.0, *(rates(first, runs) if arguments.loaded else ())):
        jobs = [replace(first, policy=policy, rate=rate) for policy in arguments.policies]
        shown = [runs[job] for job in jobs if job in runs]
        title = f"{first.cell}: fluid bound {bound:.3f} req/s, " + (f"at {rate:.2f} req/s" if rate else "all at once")
        text = f"{title}\n{table(shown, bound)}"
        print(f"\n{text}")
        sections.append(Section(f"{first.cell}-{rate:g}", text, bound, shown))
    return [*_throughput_rows(first, bound, runs), *_latency_rows(first, runs), *tail_rows(first, runs, arguments.tail_seeds)]


def _throughput_rows(first: Job, bound: float, runs: Runs) -> list[Row]:
    ours, theirs = runs[first].requests_per_s, runs[replace(first, policy=THEIRS)].requests_per_s
    return [
        Row(f"{first.cell}: throughput", "req/s", ours, theirs, THEIRS, THROUGHPUT_TARGET),
        Row(f"{first.cell}: throughput", "req/s", ours, bound, "the fluid bound", BOUND_TARGET),
    ]


def _latency_rows(first: Job, runs: Runs) -> list[Row]:
    rows: list[Row] = []
    for rate, name in zip(rates(first, runs), (*(f"{share:.0%} load" for share in LOADS), "a low rate"), strict=True):
        jobs = [replace(first, policy=policy, rate=rate) for policy in (OURS, THEIRS)]
        if all(job in runs for job in jobs):
            mine, other = (runs[job].ttft[-1] for job in jobs)
            target = TTFT_TARGET if rate != LOW_RATE else 1.0
            rows.append(Row(f"{first.cell}: TTFT p99 at {name}", "s", mine, other, THEIRS, target, lower_is_better=True))
    return rows


def tail_jobs(job: Job, seeds: int) -> list[Job]:
    """The same load with other arrivals, of the two whose tails are compared: ten requests make the p99 of a thousand."""
    compared = job.policy in (OURS, THEIRS) and job.rate != LOW_RATE
    return [replace(job, seed=job.seed + at) for at in range(seeds)] if compared else []


def tail_rows(first: Job, runs: Runs, seeds: int) -> list[Row]:
    """TTFT p99 of either side, each the mean over arrivals of several seeds."""
    rows: list[Row] = []
    for share, rate in zip(LOADS, rates(first, runs), strict=False):
        mine, theirs = (tail_jobs(replace(first, policy=policy, rate=rate), seeds) for policy in (OURS, THEIRS))
        if seeds > 1 and all(job in runs for job in (*mine, *theirs)):
            ours, other = (fmean(runs[job].ttft[-1] for job in side) for side in (mine, theirs))
            name = f"{first.cell}: TTFT p99 at {share:.0%} load, mean of {seeds}"
            rows.append(Row(name, "s", ours, other, THEIRS, TTFT_TARGET, lower_is_better=True))
    return rows


if __name__ == "__main__":
    main()
