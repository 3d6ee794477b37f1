"""What the end of a flood costs: the papers' 1,000 requests at once in other orders, beside the fluid bound.

    python -m benchmarks.flood_orders --trace AzureLLMInferenceTrace_conv.csv

The line is served in order of arrival, so the order of a flood is that of its requests. The last answers decode alone, and how long
they do depends on who comes last. How long an answer will be nobody can know; prompts are what an owner could go by. Writes
`benchmarks/results/flood_orders.json`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

from benchmarks.papers import BOUND_TARGET, CELLS, OURS
from benchmarks.rows import Row, write_rows
from benchmarks.simulated_runs import Job, arrivals_of, plan_of
from cli.simulate import SCHEDULED
from scheduler.simulation.serving.figures import Targets, figures
from scheduler.simulation.serving.fluid import fluid_bound
from scheduler.simulation.serving.policies import simulate
from scheduler.simulation.serving.trace import Arrival
from scheduler.simulation.serving.world import Serving

ARRIVAL = "order of arrival"
ORDERS: dict[str, Callable[[Arrival], int]] = {
    ARRIVAL: lambda one: 0,
    "longest answer first": lambda one: -one.output_tokens,
    "shortest answer first": lambda one: one.output_tokens,
    "longest prompt first": lambda one: -one.prompt_tokens,
    "shortest prompt first": lambda one: one.prompt_tokens,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, required=True, help="AzureLLMInferenceTrace_conv.csv of the Azure public data set")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--cells", nargs="+", default=list(CELLS), choices=CELLS)
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    jobs = [Job(cell, OURS, 0.0, arguments.trace, arguments.requests, 0) for cell in arguments.cells]
    with ProcessPoolExecutor(arguments.processes) as pool:
        rates = list(pool.map(requests_per_s, *zip(*product(jobs, ORDERS), strict=True)))
    write_rows("flood_orders", rows(jobs, rates))


def requests_per_s(job: Job, order: str) -> float:
    """Of the flood in that order; who is alike stays in order of arrival."""
    arrivals = sorted(arrivals_of(job), key=ORDERS[order])
    return figures(job.policy, simulate(job.policy, Serving(plan_of(job), arrivals, SCHEDULED, job.seed)), Targets()).requests_per_s


def rows(jobs: Sequence[Job], rates: Sequence[float]) -> list[Row]:
    """`rates` are of every job in every order. A target has only the order that is promised."""
    found: list[Row] = []
    for (job, order), rate in zip(product(jobs, ORDERS), rates, strict=True):
        bound = fluid_bound(plan_of(job), arrivals_of(job)).requests_per_s
        found.append(Row(f"{job.cell}, {order}", "req/s", rate, bound, "the fluid bound", BOUND_TARGET if order == ARRIVAL else None))
    return found


if __name__ == "__main__":
    main()
