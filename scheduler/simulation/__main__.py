"""`python -m scheduler.simulation --seed N [--verbose]` tells one story; `--seeds A B` runs many and prints the table."""

from __future__ import annotations

import argparse
import logging
import sys

from scheduler.simulation.run import run_seed, run_seeds


def main() -> int:
    logging.disable(logging.ERROR)
    parser = argparse.ArgumentParser(prog="python -m scheduler.simulation", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, help="replay this schedule")
    which.add_argument("--seeds", type=int, nargs=2, metavar=("FROM", "TO"), help="run the schedules FROM..TO-1")
    parser.add_argument("--verbose", action="store_true", help="print every event of the story")
    options = parser.parse_args()
    return replay(options.seed, options.verbose) if options.seed is not None else sweep(*options.seeds)


def replay(seed: int, verbose: bool) -> int:
    world, failure = run_seed(seed)
    print(world.schedule)
    if verbose:
        print("\n".join(map(str, world.trace)))
    print(f"virtual seconds {world.now:.3f}, ends {dict(world.oracle.outcomes)}")
    print(failure.why if failure else "all rules held")
    return 1 if failure else 0


def sweep(first: int, stop: int) -> int:
    tally = run_seeds(range(first, stop))
    print(tally.table())
    for failure in tally.failures:
        print(f"seed {failure.seed}: {failure.why}")
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
