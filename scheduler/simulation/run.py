"""Runs schedules and adds up what they met."""

from __future__ import annotations

import logging
import multiprocessing
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import reduce

from scheduler.simulation.build import Parts
from scheduler.simulation.faults import make_schedule
from scheduler.simulation.named_steps import hits, named_table
from scheduler.simulation.steps import LOSSES, POINTS, Fault, Point, Step
from scheduler.simulation.world import World


@dataclass(frozen=True, slots=True)
class Failure:
    """A seed whose run broke a rule, and how."""

    seed: int
    why: str


@dataclass
class Tally:
    """What a run of schedules met, hit and found."""

    schedules: int = 0
    met: Counter[Step] = field(default_factory=Counter)
    hit: Counter[Point] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    cached_tokens: int = 0
    """Tokens that were not computed because a worker had them in cache."""
    continued: Counter[str] = field(default_factory=Counter)
    """Choices that went on in mid-stream elsewhere, by what they asked for."""

    losses: Counter[str] = field(default_factory=Counter)
    """What servers in default mode lost."""

    def add(self, other: Tally) -> Tally:
        self.schedules += other.schedules
        self.met += other.met
        self.hit += other.hit
        self.outcomes += other.outcomes
        self.failures += other.failures
        self.cached_tokens += other.cached_tokens
        self.continued += other.continued
        self.losses += other.losses
        return self

    @property
    def never_hit(self) -> list[Point]:
        return [point for point in (*POINTS, *LOSSES) if not self.hit[point]]

    @property
    def unnamed(self) -> list[str]:
        """Named steps of the protocol at which no fault struck."""
        return [name for name, count in hits(self.hit).items() if not count]

    def table(self) -> str:
        """One line for each step: how often it was met, and how often each of its faults struck."""
        lines = [f"{'step':<52} {'met':>8}  struck"]
        for step in Step:
            struck = ", ".join(f"{fault.value} {self.hit[step, fault]}" for fault in _faults(step))
            lines.append(f"{step.value:<52} {self.met[step]:>8}  {struck}")
        lines += ["", named_table(self.hit), ""]
        lines.append(f"{self.schedules} schedules, {sum(self.hit.values())} faults; ends: {dict(sorted(self.outcomes.items()))}")
        lines.append(
            f"{self.cached_tokens} tokens came from a cache; choices that went on in mid-stream: {dict(sorted(self.continued.items()))}"
        )
        lines.append(f"where the server lost its last writes: {dict(sorted(self.losses.items())) or 'nothing that was told'}")
        return "\n".join(lines)


def _faults(step: Step) -> list[Fault]:
    return [fault for other, fault in (*POINTS, *LOSSES) if other is step]


def run_seed(seed: int, parts: Parts | None = None) -> tuple[World, Failure | None]:
    """Plays the seed's schedule; any exception out of a core, a shell or the oracle is the seed's failure."""
    world = World(make_schedule(seed), parts)
    try:
        world.run()
    except Exception as error:
        return world, Failure(seed, f"{type(error).__name__}: {error}")
    return world, None


def run_seeds(seeds: Iterable[int], parts: Parts | None = None, *, stop_at_first: bool = False) -> Tally:
    tally = Tally()
    for seed in seeds:
        world, failure = run_seed(seed, parts)
        tally.add(_tally_of(world, failure))
        if failure and stop_at_first:
            break
    return tally


def _tally_of(world: World, failure: Failure | None) -> Tally:
    plan, oracle = world.plan, world.oracle
    return Tally(
        1, plan.met, plan.hit, oracle.outcomes, [failure] if failure else [], oracle.cached_tokens, oracle.continued(), oracle.losses
    )


def run_together(seeds: Sequence[int], processes: int) -> Tally:
    """The same over several processes; each takes every so manieth seed, so that all find about the same work."""
    if processes <= 1:
        return run_seeds(seeds)
    shares = [seeds[share :: processes * 4] for share in range(processes * 4)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=logging.disable, initargs=(logging.ERROR,)) as pool:
        return reduce(Tally.add, pool.map(run_seeds, [share for share in shares if share]), Tally())
