"""A schedule: a seed, the small world it describes, and which fault strikes at which occurrence of which step.

Everything random in a simulated run is drawn here or from generators seeded here, so a seed names one story, to the byte.
Seed `n` aims at point `n modulo the number of points` and adds a few others, so that a run of consecutive seeds meets every
point often, rare ones included: where a step happens only in a certain kind of world, the schedule is given that world.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from random import Random

from scheduler.simulation.steps import POINTS, Fault, Point, Step, faults_of

_ANY = (24, 64, 65, 80, 130, 144, 200)
_ALMOST_FULL = (118, 119, 120)
"""Prompts of 8 blocks of 16 that soon need 9 each: with one block more than two or three of them fill, one of them must yield."""


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """`fault` strikes the `occurrence`-th time (from 1) that `step` is met."""

    step: Step
    occurrence: int
    fault: Fault

    def __str__(self) -> str:
        return f"{self.step.value} ({self.occurrence}): {self.fault.value}"


@dataclass(frozen=True, slots=True)
class Scenario:
    """The world in which a schedule happens: rates are per virtual second."""

    requests: int = 6
    arrivals_per_s: float = 8.0
    stragglers: int = 0
    """Requests that come later, when the first ones' KV blocks are used again."""
    high_ends: int = 1
    low_ends: int = 2
    high_blocks: int = 96
    low_blocks: int = 64
    prompts: tuple[int, ...] = _ANY
    """Lengths of prompts, in tokens, to draw from."""
    outputs: tuple[int, int] = (4, 12)
    """Fewest and most output tokens that a request may ask for."""
    schedulers: int = 2
    depth: int = 1
    cancel_share: float = 0.1
    leave_share: float = 0.15
    background_share: float = 0.15
    timeout_share: float = 0.05
    stop_share: float = 0.3
    sampled_share: float = 0.5
    """Requests with a temperature and one to four choices."""
    reserved_output: int = 16
    """Output tokens that scheduler and workers reserve before they have learned: too few make a worker preempt."""
    drains: int = 0
    max_crashes: int = 3
    """Attempts that may end in a crash before a request is a dead letter."""
    shared_share: float = 0.0
    """Requests whose prompt begins like others'."""
    tenants: int = 1
    waits: bool = False
    """The server loses no write that somebody was told of, as with WAIT before each such answer; else what it loses, it loses."""
    restarts: bool = True
    """Whether a killed worker comes back as a new incarnation."""


@dataclass(frozen=True, slots=True)
class Schedule:
    seed: int
    scenario: Scenario
    faults: tuple[PlannedFault, ...]

    def __str__(self) -> str:
        lines = "".join(f"\n  {fault}" for fault in self.faults)
        return f"seed {self.seed}: {self.scenario}{lines or ' no faults'}"


@dataclass
class FaultPlan:
    """The schedule's faults while they are played: counts what was met and what was hit."""

    schedule: Schedule
    met: Counter[Step] = field(default_factory=Counter)
    hit: Counter[Point] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._planned = {(fault.step, fault.occurrence): fault.fault for fault in self.schedule.faults}

    def strike(self, step: Step) -> Fault | None:
        """The step is met once more: what goes wrong this time, if anything."""
        self.met[step] += 1
        fault = self._planned.get((step, self.met[step]))
        if fault is not None:
            self.hit[step, fault] += 1
        return fault


_EARLY = 3
_OTHERS = (0, 0, 1, 1, 2, 3, 5)
"""Faults beside the one that is aimed at."""
_OFTEN = {
    Step.MESSAGE_REPORT: 60,
    Step.MESSAGE_GATEWAY_BEAT: 12,
    Step.MESSAGE_ASSIGN: 7,
    Step.MESSAGE_LOG_ENTRY: 60,
    Step.WRITE_TELL_SCHEDULER: 60,
    Step.WRITE_APPEND: 50,
    Step.WRITE_APPEND_END: 5,
    Step.WRITE_LEAD: 8,
    Step.WRITE_PUBLISH_LOAD: 12,
    Step.WRITE_CREATE_LOG: 6,
    Step.WRITE_SUBMIT: 6,
    Step.WRITE_PLACE_ASSIGN: 6,
    Step.WRITE_CLOSE: 5,
    Step.WORKER_GOT_ASSIGN: 6,
    Step.WORKER_BEFORE_STEP: 60,
    Step.WORKER_AFTER_STEP: 60,
    Step.WORKER_APPENDED: 50,
    Step.WORKER_LAST_TOKEN: 5,
    Step.SCHEDULER_BEFORE_PLACE: 7,
    Step.SCHEDULER_PLACED: 7,
    Step.SCHEDULER_RENEWING: 8,
    Step.GATEWAY_FOLLOWING: 40,
    Step.GATEWAY_SUBMITTED: 5,
    Step.ENGINE_STEP: 60,
    Step.SERVER: 150,
    Step.CLOCK: 12,
}
"""The last occurrence worth aiming at, where it is not an early one."""

_MOVES = (
    PlannedFault(Step.WORKER_AFTER_STEP, 12, Fault.KILLED),
    PlannedFault(Step.WORKER_APPENDED, 6, Fault.STALLED),
    PlannedFault(Step.MESSAGE_ASSIGN, 1, Fault.LOST),
)
"""Each makes a request move."""
_MOVING_STEPS = frozenset(
    {
        Step.WRITE_BEGIN_MOVE,
        Step.WRITE_RAISE_FENCE,
        Step.WRITE_REQUEUE,
        Step.SCHEDULER_MOVE_BEGUN,
        Step.SCHEDULER_FENCE_RAISED,
        Step.SCHEDULER_REQUEUED,
    }
)
_DEAD_STEPS = frozenset({Step.SCHEDULER_DEAD_WRITTEN, Step.WRITE_CLOSE_DEAD})
"""One crash is one too many there."""
_CANCEL_STEPS = frozenset({Step.MESSAGE_CANCEL, Step.MESSAGE_CANCEL_ASKED, Step.WRITE_CANCEL, Step.WRITE_END, Step.SCHEDULER_END_WRITTEN})
_DRAIN_STEPS = frozenset({Step.MESSAGE_DRAIN, Step.WORKER_DRAINING, Step.WRITE_LEAVE})
_LISTENER_STEPS = frozenset({Step.MESSAGE_LISTENER_CHANGE, Step.WRITE_SET_LISTENER})
_TRANSFER_STEPS = frozenset(
    {
        Step.MESSAGE_PULL,
        Step.MESSAGE_STOP_ASSIST,
        Step.MESSAGE_RELEASE_ASSIST,
        Step.MESSAGE_ABANDON_TRANSFER,
        Step.MESSAGE_PULL_REFUSED,
        Step.WORKER_BEFORE_PULL,
        Step.WORKER_SENDING,
        Step.WORKER_RECEIVING,
        Step.WORKER_AFTER_PULL,
        Step.TRANSFER,
        Step.WRITE_TELL_WORKER,
    }
)


def make_schedule(seed: int) -> Schedule:
    rng = Random(seed)
    step, fault = POINTS[seed % len(POINTS)]
    aimed = PlannedFault(step, _occurrence(step, rng), fault)
    faults = [*_enablers(step, rng), aimed, *(_any_fault(rng) for _ in range(rng.choice(_OTHERS))), *_loss(seed)]
    unique = {(planned.step, planned.occurrence): planned for planned in reversed(faults)}
    scenario = replace(_share(seed, _scenario(step, rng)), waits=Random(seed * 67_867_967 + 3).random() < 0.5)
    return Schedule(seed, scenario, tuple(sorted(unique.values(), key=str)))


def _loss(seed: int) -> tuple[PlannedFault, ...]:
    """In one world of twelve the server comes back without its last writes. Drawn apart, so that other worlds stay as they are."""
    rng = Random(seed * 86_028_121 + 11)
    if rng.random() >= 1 / 12:
        return ()
    return (PlannedFault(Step.SERVER, rng.randint(20, 250), Fault.TAIL_LOST),)


def _share(seed: int, scenario: Scenario) -> Scenario:
    """In two worlds of five prompts begin alike, in some of them for two tenants. Drawn apart, so that other worlds stay as they are."""
    rng = Random(seed * 104_729 + 5)
    if scenario.prompts is _ALMOST_FULL or rng.random() >= 0.4:
        return scenario
    return replace(scenario, shared_share=rng.choice((0.6, 1.0)), tenants=rng.choice((1, 2, 2)))


def _occurrence(step: Step, rng: Random) -> int:
    seldom = 1 if rng.random() < 0.75 else _EARLY
    return rng.randint(1, _OFTEN.get(step, seldom))


def _any_fault(rng: Random) -> PlannedFault:
    step = rng.choice(tuple(Step))
    return PlannedFault(step, _occurrence(step, rng), rng.choice(faults_of(step)))


def _enablers(step: Step, rng: Random) -> tuple[PlannedFault, ...]:
    """Faults without which the step would hardly ever be met."""
    if step in _MOVING_STEPS:
        return (rng.choice(_MOVES),)
    if step in _DEAD_STEPS:
        return (_MOVES[0],)
    if step is Step.MESSAGE_REVOKE:
        return tuple(PlannedFault(Step.MESSAGE_ASSIGN, number, Fault.LOST) for number in (1, rng.randint(2, 5)))
    if step is Step.MESSAGE_PULL_REFUSED:
        return tuple(PlannedFault(Step.MESSAGE_PULL, number, Fault.LATE) for number in range(1, 7))
    if step is Step.MESSAGE_ABANDON_TRANSFER:
        return tuple(PlannedFault(Step.TRANSFER, number, Fault.LATE_WRITE) for number in range(1, 7))
    return ()


def _scenario(step: Step, rng: Random) -> Scenario:
    tight = step is Step.WORKER_PREEMPTING or rng.random() < 0.15
    pulls = step in _TRANSFER_STEPS
    # Late bytes do harm only in a block that somebody else fills by then.
    crowded = step is Step.WORKER_PREEMPTING
    return Scenario(
        requests=6 if crowded else 5 if pulls else rng.randint(3, 5),
        stragglers=4 if pulls else rng.choice((0, 0, 1)),
        arrivals_per_s=200.0 if crowded else 40.0 if pulls or tight or step in _CANCEL_STEPS else rng.choice((4.0, 12.0, 40.0)),
        high_ends=2 if rng.random() < 0.2 and not pulls else 1,
        prompts=_ALMOST_FULL if crowded else _ANY,
        outputs=(16, 32) if crowded else (4, 12),
        high_blocks=rng.choice((17, 25)) if crowded else rng.randint(22, 28) if tight else 26 if pulls else 64,
        low_blocks=rng.choice((24, 32)),
        depth=rng.choice((1, 2)),
        reserved_output=2 if tight else 16,
        cancel_share=0.9 if step is Step.MESSAGE_ABANDON_TRANSFER else 0.7 if step in _CANCEL_STEPS else 0.1,
        leave_share=0.8 if step in _LISTENER_STEPS else 0.15,
        max_crashes=1 if step in _DEAD_STEPS else 3,
        drains=1 if step in _DRAIN_STEPS or rng.random() < 0.05 else 0,
        restarts=rng.random() < 0.8,
    )
