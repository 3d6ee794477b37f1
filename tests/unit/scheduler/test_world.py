"""Random faults against an honest world: whatever is lost, late, repeated or killed, everything ends once and nothing is left over."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from shared.types import Phase, WorkerRef
from tests.unit.scheduler.world import World


class FaultyWorld(RuleBasedStateMachine):
    """Hypothesis draws the faults and shrinks a failure to the shortest story."""

    world: World

    @initialize(seed=st.integers(0, 2**20), loss=st.sampled_from([0.0, 0.1, 0.3]), policy=st.sampled_from(["headstart", "fixed-cut"]))
    def begin(self, seed: int, loss: float, policy: str) -> None:
        self.world = World(Random(seed), loss=loss, policy=policy, cut_tokens=128)
        self.world.start("fast", 1, fast=True)
        self.world.start("slow", 1, fast=False)
        self.incarnation = 1

    @rule(n=st.integers(1, 1500), max_tokens=st.integers(1, 12), timeout=st.sampled_from([0.0, 0.0, 3.0]))
    def submit(self, n: int, max_tokens: int, timeout: float) -> None:
        self.world.submit(n, max_tokens, timeout_s=timeout)

    @rule(number=st.integers(0, 5), rounds=st.integers(1, 3))
    def burst(self, number: int, rounds: int) -> None:
        for _ in range(number):
            self.world.submit(700, 3)
        self.rounds(rounds)

    @rule(count=st.integers(1, 20))
    def rounds(self, count: int) -> None:
        for _ in range(count):
            self.world.round()

    @rule(pick=st.integers(0, 50))
    def cancel(self, pick: int) -> None:
        records = list(self.world.pool.records)
        if records:
            self.world.cancel(records[pick % len(records)])

    @rule(name=st.sampled_from(["fast", "slow"]))
    def kill(self, name: str) -> None:
        for worker in self._alive(name):
            self.world.kill(worker)

    @rule(name=st.sampled_from(["fast", "slow", "second"]))
    def restart(self, name: str) -> None:
        self.incarnation += 1
        self.world.start(name, self.incarnation, fast=name != "slow")

    @rule(pick=st.integers(0, 50))
    def give_back(self, pick: int) -> None:
        for device in self.world.devices.values():
            if device.owned:
                device.give_back(list(device.owned)[pick % len(device.owned)])

    @rule()
    def elect(self) -> None:
        self.world.elect()

    @rule()
    def reconnect(self) -> None:
        self.world.reconnect()

    def _alive(self, name: str) -> list[WorkerRef]:
        return [worker for worker in self.world.devices if worker.worker == name]

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        if not self.world.devices or not self._alive("fast"):
            self.restart("fast")
        self.world.heal()
        self._check_ends()

    def _check_ends(self) -> None:
        for request_id, held in self.world.pool.records.items():
            log = self.world.pool.logs[request_id]
            assert log.ended is held.phase
            if held.phase is Phase.FINISHED:
                assert log.written == held.submission.max_tokens, f"{request_id} has {log.written} tokens in its log"


FaultyWorld.TestCase.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
TestFaultyWorld = FaultyWorld.TestCase


def world(**more: object) -> World:
    one = World(Random(1), **more)  # type: ignore[arg-type]
    one.start("fast", 1, fast=True)
    one.start("slow", 1, fast=False)
    return one


@pytest.mark.parametrize("policy", ["headstart", "high-only", "fixed-cut"])
def test_a_burst_is_served_whole_without_a_second_attempt(policy: str) -> None:
    one = world(policy=policy, cut_tokens=256)
    for _ in range(30):
        one.submit(900, 5)
    one.heal()
    assert {(held.phase, held.attempt) for held in one.pool.records.values()} == {(Phase.FINISHED, 1)}


def cuts(one: World) -> list[int]:
    return [job.source.tokens if job.source else 0 for job in one.pool.placed.values()]


def test_with_no_load_there_is_no_cut_and_under_load_the_low_end_is_ahead() -> None:
    one = world()
    one.round()
    one.submit(900, 5)
    assert cuts(one) == [0]
    for _ in range(30):
        one.submit(900, 5)
    one.heal()
    assert sum(cut > 0 for cut in cuts(one)) >= 5


def test_a_fixed_cut_cuts_everything_there() -> None:
    one = world(policy="fixed-cut", cut_tokens=256)
    for _ in range(10):
        one.submit(900, 5)
    one.heal()
    assert cuts(one) == [256] * 10


def test_a_request_whose_workers_crash_is_given_up_after_three_of_them() -> None:
    one = world(policy="high-only")
    poison = one.submit(100, 500)
    for incarnation in range(2, 5):
        for _ in range(3):
            one.round()
        assert one.pool.records[poison].phase is Phase.RUNNING
        one.start("fast", incarnation, fast=True)
    one.heal()
    held = one.pool.records[poison]
    assert (held.phase, held.attempt, held.crashes) == (Phase.FAILED, 3, 2)
