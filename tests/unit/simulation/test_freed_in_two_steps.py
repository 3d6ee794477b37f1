"""Cancelled, out of time, or left by its client: at every stage its KV blocks are free on both workers within two steps.

The real cores, engine, mover and output book under the virtual clock. A step that runs when the request is ended counts, and so does the
one that the engine was given before it. Blocks that a transfer still writes or reads are quarantined until it has ended: they are let
out of the count, and must be free when the transfer is over (at the latest its deadline; here it is abandoned at once).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from scheduler.core import SchedulerCore
from scheduler.events import Tick
from scheduler.requests import LiveRequest, Stage
from scheduler.simulation.answer import Letters, expected_answer
from scheduler.simulation.build import Parts, scheduler_settings
from scheduler.simulation.client import Client, Habits
from scheduler.simulation.faults import Scenario, Schedule
from scheduler.simulation.scheduler_shell import SchedulerShell
from scheduler.simulation.worker_shell import WorkerShell
from scheduler.simulation.world import World
from shared.fabric import LoggedEntry, LogHead
from shared.messages import Assign, Job, Submission, WorkerInfo
from shared.request import TERMINAL
from shared.types import NO_GATEWAY, Phase, RequestId, RequestSpec, SamplingParams, WorkerId
from workers.core import WorkerCore
from workers.core_state import Owned
from workers.events import StopFound
from workers.fake_engine import FakeEngine
from workers.output import OutputBook

TARGET = RequestId("target")
FREE_WITHIN_STEPS = 2


class CountingShell(WorkerShell):
    steps = 0
    stop_found = False

    def _computed(self) -> None:
        self.steps += 1
        super()._computed()

    def _tell_core(self) -> None:
        for event in self._book.events():
            self.stop_found |= isinstance(event, StopFound) and event.request_id == TARGET
            self.after(0.0002, partial(self.feed, event))

    @property
    def owned(self) -> Owned | None:
        return self.core.owned.get(TARGET)

    slow_s = 0.0
    """How much longer it takes to read the target's log."""

    def _loaded(self, job: Job, head: LogHead | None, logged: tuple[LoggedEntry, ...]) -> None:
        slow_s = self.slow_s if job.request_id == TARGET and isinstance(job, Assign) else 0.0
        self.after(slow_s, partial(super()._loaded, job, head, logged))

    def loads(self) -> bool:
        return any(isinstance(job, Assign) and job.request_id == TARGET for job in self._jobs)

    def holds(self, *, transfers: bool = True) -> bool:
        """Any block of the target: in its sequences, in steps that write them, in transfers."""
        core = self.core
        own = any(sequence.blocks for sequence in core.sequences if sequence.spec.request_id == TARGET)
        steps = any(row.sequence.spec.request_id == TARGET for step in core.running for row in step.rows)
        moving = any(intake.request_id == TARGET for intake in core.intakes.values())
        moving |= any(send.offer.request_id == TARGET for send in core.sends.values())
        return own or steps or (transfers and moving)


class CountingParts(Parts):
    def worker_shell(self, world: World, info: WorkerInfo, core: WorkerCore, engine: FakeEngine) -> WorkerShell:
        return CountingShell(world, info, core, engine, OutputBook(Letters(), world.clock))

    def scheduler(self, world: World, name: str) -> SchedulerShell:
        settings = replace(scheduler_settings(world.schedule.scenario), grace_s=0.0)
        return SchedulerShell(world, name, SchedulerCore(settings))


class Staged(World):
    """Some requests that fill the workers, and the target behind them."""

    def __init__(self, target: SamplingParams, fillers: int, low_ends: int, high_blocks: int, depth: int, reserved: int) -> None:
        scenario = Scenario(low_ends=low_ends, high_blocks=high_blocks, schedulers=1, depth=depth, reserved_output=reserved)
        self.specs = [spec(f"filler{at}", SamplingParams(80, temperature=0.0, ignore_eos=True, seed=1)) for at in range(fillers)]
        self.specs.append(spec(TARGET, target))
        super().__init__(Schedule(3, scenario, ()), CountingParts())

    arrives_s = 1.4
    """The target: when the others decode, and fill every place of the high-end."""

    def _populate(self) -> None:
        self._start_scheduler("scheduler")
        self._start_worker(WorkerId("high"))
        for _ in range(self.schedule.scenario.low_ends):
            self._start_worker(WorkerId("low"))
        self._start_gateway()
        for one in self.specs:
            most, choices = one.sampling.max_tokens, one.sampling.n
            submission = Submission(one.request_id, len(one.prompt), most, 0, gateway=NO_GATEWAY, num_choices=choices)
            self.clients.append(Client(self, one, submission, Habits()))
            self.after(0.5 if one.request_id != TARGET else self.arrives_s, self.clients[-1].arrive)
        self.after(0.5, self._look)

    @property
    def shells(self) -> list[CountingShell]:
        return [shell for shell in self.workers if isinstance(shell, CountingShell)]

    @property
    def high(self) -> CountingShell:
        return self.shells[0]

    @property
    def live(self) -> LiveRequest | None:
        leadership = self.schedulers[0].core._leadership
        return leadership.state.requests.get(TARGET) if leadership else None

    def until(self, reached: Callable[[Staged], bool], what: str) -> None:
        while not reached(self):
            assert self.now < 60.0, f"never {what}"
            self._play_next()

    def steps(self) -> list[int]:
        return [shell.steps for shell in self.shells]

    def ending_is_known(self) -> bool:
        return self.live is None or self.live.ending is not None


def spec(name: str, sampling: SamplingParams) -> RequestSpec:
    prompt = tuple((sum(map(ord, name)) * 7 + 31 * at) % 997 + 1 for at in range(200))
    return RequestSpec(RequestId(name), "fake", prompt, sampling, 0)


# --- how it ends ------------------------------------------------------------------------------------------------------


def cancelled(world: Staged) -> list[int]:
    world.fabric.cancel(TARGET)
    return world.steps()


def out_of_time(world: Staged) -> list[int]:
    """The deadline passes now, and the scheduler looks at its clock."""
    leadership = world.schedulers[0].core._leadership
    assert leadership is not None
    leadership.state.deadlines.set(TARGET, world.now)
    world.schedulers[0].feed(Tick())
    return world.steps()


def disconnected(world: Staged) -> list[int]:
    """The client is gone and the grace period (here none) is over when the scheduler looks at its clock."""
    client = world.clients[-1]
    assert client.gateway is not None
    client.gateway.unfollow(client)
    client.gone = True
    for _ in range(4):
        world.after(0.002, lambda: world.schedulers[0].feed(Tick()))
    world.until(Staged.ending_is_known, "heard")
    return world.steps()


# --- where it is ------------------------------------------------------------------------------------------------------


def owned(world: Staged, holds: Callable[[Owned], bool]) -> bool:
    it = world.high.owned
    return it is not None and not it.ended and holds(it)


def stage_is(stage: Stage) -> Callable[[Staged], bool]:
    return lambda world: world.live is not None and world.live.stage is stage


def head_start(offered: int) -> Callable[[Staged], bool]:
    def reached(world: Staged) -> bool:
        held = [assist for shell in world.shells for assist in shell.core.assists.values() if assist.offer.request_id == TARGET]
        there = any((assist.offer.tokens > 0) == (offered > 0) and bool(assist.sequence.blocks) for assist in held)
        return there and stage_is(Stage.WAITING)(world)

    return reached


def running(world: Staged) -> bool:
    return world.fabric._state.held[TARGET].record.phase is Phase.RUNNING if TARGET in world.fabric._state.held else False


def prefilling(it: Owned) -> bool:
    return bool(it.sequence.blocks) and 0 < it.sequence.num_computed < 200 and not it.intake


def decoding(it: Owned) -> bool:
    return all(sequence.num_generated > 2 for sequence in it.choices)


def preempted(it: Owned) -> bool:
    return not it.sequence.blocks and it.sequence.num_generated > 0


def sharing(it: Owned) -> bool:
    return len(it.choices) == 3 and decoding(it) and len({sequence.blocks[0] for sequence in it.choices}) == 1


GREEDY = SamplingParams(24, temperature=0.0, ignore_eos=True, seed=1)
THREE = SamplingParams(24, temperature=1.0, ignore_eos=True, seed=1, n=3)
TIGHT: dict[str, object] = {"low_ends": 0, "high_blocks": 54, "reserved": 1, "fillers": 3, "arrives_s": 0.55}
STAGES: dict[str, tuple[Callable[[Staged], bool], dict[str, object]]] = {
    "waiting": (stage_is(Stage.WAITING), {"low_ends": 0}),
    "head start running": (head_start(0), {}),
    "head start offered": (head_start(1), {}),
    "being placed": (stage_is(Stage.PLACING), {}),
    "assigned, not read": (lambda world: running(world) and world.high.owned is None, {}),
    "being loaded": (lambda world: world.high.loads(), {}),
    "being loaded slowly": (lambda world: world.high.loads(), {"slow_s": 0.05}),
    "being pulled": (lambda world: owned(world, lambda it: it.intake is not None), {}),
    "prefilling": (lambda world: owned(world, prefilling), {"low_ends": 0}),
    "decoding": (lambda world: owned(world, decoding), {}),
    "preempted": (
        lambda world: owned(world, preempted),
        {"low_ends": 0, "high_blocks": 54, "reserved": 1, "fillers": 3, "arrives_s": 0.55},
    ),
    "choices that share blocks": (lambda world: owned(world, sharing), {"target": THREE, "fillers": 1}),
    "stop string found": (lambda world: world.high.stop_found, {"target": replace(GREEDY, stop=("STOP",))}),
    "ended, not closed": (lambda world: world.high.owned is not None and world.high.owned.ended, {}),
}


def build(stage: str, depth: int) -> Staged:
    options = {"target": GREEDY, "fillers": 4, "low_ends": 1, "high_blocks": 96, "depth": depth, "reserved": 16, **STAGES[stage][1]}
    target = options["target"]
    assert isinstance(target, SamplingParams)
    if target.stop:
        options["target"] = replace(target, stop=(expected_answer(spec(TARGET, GREEDY)).text[6:10],))
    slow_s, arrives_s = options.pop("slow_s", 0.0), options.pop("arrives_s", 1.4)
    world = Staged(**options)  # type: ignore[arg-type]
    world.arrives_s = float(str(arrives_s))
    world._populate()
    world.high.slow_s = float(str(slow_s))
    return world


@pytest.mark.parametrize(("end", "depth"), [(cancelled, 2), (out_of_time, 2), (disconnected, 1)])
@pytest.mark.parametrize("stage", STAGES)
def test_its_blocks_are_free_within_two_steps(stage: str, end: Callable[[Staged], list[int]], depth: int) -> None:
    world = build(stage, depth)
    world.until(STAGES[stage][0], stage)
    before = end(world)
    held = [list[int]() for _ in world.shells]
    """Steps that were done since, at each moment at which the worker still held something."""

    def free(world: Staged) -> bool:
        for at, shell in enumerate(world.shells):
            if shell.holds(transfers=False):
                held[at].append(shell.steps - before[at])
        return has_ended(world) and not any(shell.holds() for shell in world.shells)

    world.until(free, f"free after {stage}")
    assert max(max(each, default=0) for each in held) < FREE_WITHIN_STEPS, (
        f"{stage}: held after {[max(each, default=0) for each in held]} steps"
    )
    world.until(lambda world: all(shell.core.idle for shell in world.shells), "idle")
    assert all(shell.core.blocks.free_blocks == shell.info.total_blocks for shell in world.shells)


def has_ended(world: Staged) -> bool:
    return world.fabric._state.held[TARGET].record.phase in TERMINAL
