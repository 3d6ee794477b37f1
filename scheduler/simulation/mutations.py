"""`python -m scheduler.simulation.mutations`: plants each bug and says at which seed, and by which rule, the oracle saw it.

Every bug is played on seeds that aim at the steps where it can do harm, in order, until one fails; the real protocol plays the
failing seed, too, and must pass it. Exit status 1 if a bug went unseen within its bound, or the real protocol failed.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice

from scheduler.simulation import planted, planted_more
from scheduler.simulation.build import Parts
from scheduler.simulation.run import run_seed, run_seeds
from scheduler.simulation.steps import POINTS, Fault, Step

BOUND = 150
"""Schedules within which each bug is found."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """A planted bug: what is wrong, where it does harm, and what the oracle says (a pattern) when it sees it."""

    what: str
    parts: type[Parts]
    steps: tuple[Step, ...]
    complaint: str
    faults: tuple[Fault, ...] = ()
    """Of those that strike there; empty: any."""
    patience: int = 1
    """So many times the bound: what does harm rarely takes longer to be seen."""

    @property
    def name(self) -> str:
        return self.parts.__name__


@dataclass(frozen=True, slots=True)
class Finding:
    """`seed` and `why` are of the first schedule that failed; None: unseen."""

    mutation: Mutation
    schedules: int
    seed: int | None
    why: str
    sound: bool
    """The real protocol passes that seed."""


def seeds_aimed_at(steps: tuple[Step, ...], faults: tuple[Fault, ...] = ()) -> Iterator[int]:
    """In order, without end."""
    aimed = [step in steps and (not faults or fault in faults) for step, fault in POINTS]
    return (seed for seed in count() if aimed[seed % len(POINTS)])


def hunt(mutation: Mutation, bound: int = BOUND) -> Finding:
    tally = run_seeds(
        islice(seeds_aimed_at(mutation.steps, mutation.faults), bound * mutation.patience), mutation.parts(), stop_at_first=True
    )
    if not tally.failures:
        return Finding(mutation, tally.schedules, None, "", sound=True)
    failure = tally.failures[0]
    return Finding(mutation, tally.schedules, failure.seed, failure.why, sound=run_seed(failure.seed)[1] is None)


_MOVES = (Step.WORKER_APPENDED, Step.WORKER_AFTER_STEP)
_MOVING = (Step.SCHEDULER_FENCE_RAISED, Step.WRITE_REQUEUE, Step.SCHEDULER_REQUEUED)
_LEADERS = (Step.SCHEDULER_ELECTED, Step.SCHEDULER_RENEWING, Step.WRITE_LEAD)

MUTATIONS: tuple[Mutation, ...] = (
    Mutation("no fencing check", planted.NoFence, (Step.WORKER_APPENDED,), "below its fence"),
    Mutation("fence read, not raised", planted_more.FenceNotRaised, _MOVING, "below its fence"),
    Mutation("lease renewed without ownership", planted_more.LeaseWithoutOwnership, _LEADERS, "is led by"),
    Mutation("acknowledged before hand-over", planted_more.AcknowledgedBeforeHandOver, (*_LEADERS, *_MOVES), "is stuck|waits for ever"),
    Mutation("hand-over in two scripts", planted.SplitHandOver, (Step.SCHEDULER_PLACED,), "is owned by|queued -> finished"),
    Mutation("submission not repeatable", planted_more.SubmissionNotRepeatable, (Step.WRITE_SUBMIT,), "check|stuck|owned by|submit|stream"),
    Mutation("no index check in the log", planted_more.NoIndexCheck, (Step.WRITE_APPEND,), "entry at index|was shown|behind its finish"),
    Mutation("terminal entry overwritten", planted_more.EndOverwritten, (Step.WRITE_APPEND_END, Step.WRITE_END), "one end|left a gap"),
    Mutation("token shown before it is logged", planted.ShownBeforeLogged, (Step.WRITE_APPEND,), "was shown"),
    Mutation("no digest check", planted_more.NoDigestCheck, (Step.TRANSFER,), "wrong tokens|wrong logprobs"),
    Mutation("bad range not recomputed", planted_more.BadRangeNotRecomputed, (Step.TRANSFER,), "wrong tokens|wrong logprobs"),
    Mutation("blocks reused while in flight", planted.NoStaging, (Step.TRANSFER,), "wrong tokens|wrong logprobs", (Fault.LATE_WRITE,), 4),
    Mutation(
        "stale offer accepted", planted_more.StaleOffer, (Step.MESSAGE_PULL, Step.TRANSFER), "wrong tokens|wrong logprobs|staging memory"
    ),
    Mutation("release waits behind a job", planted.ReleaseBehindJob, (Step.MESSAGE_RELEASE_ASSIST,), "never came to rest"),
    Mutation("tenants share prefixes", planted.SharedTenants, (Step.WORKER_AFTER_STEP,), "written for"),
    Mutation("cached before it is verified", planted.SealedBeforeVerified, (Step.TRANSFER,), "shared or full"),
    Mutation("drain does not wait", planted_more.DrainInHaste, (Step.MESSAGE_DRAIN, Step.WORKER_DRAINING), "still held something"),
    Mutation("drain drops a job", planted_more.DrainDropsJob, (Step.MESSAGE_DRAIN, Step.WORKER_DRAINING), "one end|its log ended"),
    Mutation("dead letter forgotten", planted_more.LetterForgotten, (Step.SCHEDULER_DEAD_WRITTEN,), "has 0 dead letters"),
    Mutation("stop buffer forgotten", planted_more.StopBufferForgotten, _MOVES, "wrong text|wrong tokens|wrong logprobs"),
)


def row(found: Finding) -> str:
    seed = "unseen" if found.seed is None else str(found.seed)
    return f"{found.mutation.what:<34} {found.schedules:>4} {seed:>7}  {found.why[:110]}"


def main() -> int:
    logging.disable(logging.ERROR)
    parser = argparse.ArgumentParser(prog="python -m scheduler.simulation.mutations", description=__doc__)
    parser.add_argument("--bound", type=int, default=BOUND, help=f"schedules for each bug (default {BOUND})")
    parser.add_argument("--only", default="", help="the bugs whose name or words contain this")
    options = parser.parse_args()
    print(f"{'planted bug':<34} {'runs':>4} {'at seed':>7}  seen by")
    bad = 0
    for mutation in (each for each in MUTATIONS if options.only in each.name or options.only in each.what):
        found = hunt(mutation, options.bound)
        print(row(found) + ("" if found.sound else "  THE REAL PROTOCOL FAILS THIS SEED"), flush=True)
        bad += found.seed is None or not found.sound
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
