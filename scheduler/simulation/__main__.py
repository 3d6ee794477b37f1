"""`python -m scheduler.simulation --seed N [--verbose]` tells one story; `--seeds A B` runs many and prints the table."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time

from scheduler.simulation.run import run_seed, run_together

ENOUGH = 2000
"""Schedules among which every point is hit."""


def main() -> int:
    logging.disable(logging.ERROR)
    parser = argparse.ArgumentParser(prog="python -m scheduler.simulation", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, help="replay this schedule")
    which.add_argument("--seeds", type=int, nargs=2, metavar=("FROM", "TO"), help="run the schedules FROM..TO-1")
    parser.add_argument("--verbose", action="store_true", help="print every event of the story")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="how many share a sweep (default: all cores)")
    options = parser.parse_args()
    if options.seed is not None:
        return replay(options.seed, options.verbose)
    first, stop = options.seeds
    return sweep(first, stop, options.processes)


def replay(seed: int, verbose: bool) -> int:
    world, failure = run_seed(seed)
    print(world.schedule)
    if verbose:
        print("\n".join(map(str, world.trace)))
    print(f"virtual seconds {world.now:.3f}, ends {dict(world.oracle.outcomes)}")
    print(failure.why if failure else "all rules held")
    return 1 if failure else 0


def sweep(first: int, stop: int, processes: int) -> int:
    """Exit status 1 if a schedule failed, 2 if a point, or a named step, that so many schedules aim at was never hit."""
    began, cpu = time.monotonic(), _cpu_seconds()
    tally = run_together(range(first, stop), processes)
    print(tally.table())
    print(f"seeds {first} to {stop - 1}: {time.monotonic() - began:.0f} s, {_cpu_seconds() - cpu:.0f} s of CPU on {processes} processes")
    for failure in tally.failures:
        print(f"python -m scheduler.simulation --seed {failure.seed} --verbose  # {failure.why}")
    if tally.unnamed:
        print(f"no fault struck at: {', '.join(tally.unnamed)}")
    if tally.failures:
        return 1
    return 2 if tally.unnamed or (tally.never_hit and stop - first >= ENOUGH) else 0


def _cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    return sum(os.times()[:4])


if __name__ == "__main__":
    sys.exit(main())
