"""A fleet that is kept up to date is the fleet that would be drawn anew, whatever happened to its workers in which order."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from scheduler.fleet import Fleet, Worker
from scheduler.requests import HeadStart
from scheduler.view import Amount, Roles
from shared.messages import Credit, OwnedState, Report, WorkerState
from shared.types import AssistId, JobSeq, WorkerRef
from tests.unit.scheduler.support import FAST, SLOW, info, ref, rid

NAMES = st.sampled_from(["a", "b", "c"])
FEW = st.integers(0, 3)


class ChangingFleet(RuleBasedStateMachine):
    """Every change is told by `refresh` alone, and looked at by `settle` now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet = Fleet(max_assists=2, itl_target_s=0.02)
        self.number = 0
        for name, profile in (("a", FAST), ("b", SLOW)):
            self.fleet.refresh(self.fleet.join(info(name, profile)))
        self.take_roles(frozenset({"a"}), frozenset({"b"}))

    def _worker(self, name: str) -> Worker:
        known = self.fleet.get(ref(name))
        return known if known is not None else self.fleet.expect(ref(name))

    def _count(self) -> int:
        self.number += 1
        return self.number

    @rule(name=NAMES, fast=st.booleans())
    def join(self, name: str, fast: bool) -> None:
        if self._worker(name).info is None:
            self.fleet.refresh(self.fleet.join(info(name, FAST if fast else SLOW)))

    @rule(name=NAMES, tokens=st.integers(-1, 512), blocks=st.integers(0, 1000), places=FEW, decodes=FEW, state=st.sampled_from(WorkerState))
    def hear(self, name: str, tokens: int, blocks: int, places: int, decodes: int, state: WorkerState) -> None:
        worker = self._worker(name)
        owned = tuple(OwnedState(rid(str(at)), 1, 100, 99 if at % 2 else 20) for at in range(decodes))
        worker.hear(Report(worker.ref, self._count(), state, JobSeq(1, self._count()), Credit(tokens, blocks, places), owned))
        self.fleet.refresh(worker)

    @rule(name=NAMES, amount=st.builds(Amount, st.integers(0, 600), FEW, FEW))
    def promise(self, name: str, amount: Amount) -> None:
        worker = self._worker(name)
        worker.promise(JobSeq(1, self._count()), amount)
        self.fleet.refresh(worker)

    @rule(name=NAMES, limit=st.sampled_from([64, 512]))
    def give_head_start(self, name: str, limit: int) -> None:
        worker, number = self._worker(name), str(self._count())
        worker.head_starts[AssistId(number)] = HeadStart(AssistId(number), rid(number), worker.ref, limit, None, 0.0)
        self.fleet.refresh(worker)

    @rule(name=NAMES, offered=st.sampled_from([0, 64, 512]), flag=st.sampled_from(["stopped", "taken", "released"]))
    def advance_head_starts(self, name: str, offered: int, flag: str) -> None:
        worker = self._worker(name)
        for held in worker.head_starts.values():
            held.offered = min(offered, held.limit)
            setattr(held, flag, True)
        self.fleet.refresh(worker)

    @precondition(lambda self: self.number % 4 == 0)
    @rule(owners=st.frozensets(NAMES), assistants=st.frozensets(NAMES))
    def take_roles(self, owners: frozenset[str], assistants: frozenset[str]) -> None:
        self.fleet.settle()
        self.fleet.take_roles(Roles(frozenset(map(ref, owners)), frozenset(map(ref, assistants - owners))))

    @precondition(lambda self: self.number % 4 == 0)
    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        """And somebody who still has it in hand says that it has changed."""
        worker = self._worker(name)
        self.fleet.refresh(worker)
        self.fleet.remove(worker)
        self.fleet.refresh(worker)

    @rule()
    def look(self) -> None:
        """Several changes may lie between two looks."""
        self.fleet.settle()
        self.fleet.check()
        anew = _drawn_anew(self.fleet)
        assert _seen(self.fleet) == _seen(anew)

    def teardown(self) -> None:
        self.look()


def _drawn_anew(fleet: Fleet) -> Fleet:
    """The same ledgers and roles, every worker drawn once."""
    anew = Fleet(max_assists=2, itl_target_s=0.02)
    anew.roles = fleet.roles
    for worker in fleet:
        if worker.info is not None:
            anew.join(worker.info)
        anew._workers[worker.ref] = worker
        anew.refresh(worker)
    anew.settle()
    return anew


def _seen(fleet: Fleet) -> dict[str, Any]:
    free: set[WorkerRef] = {key[-1] for key in fleet.free_owners}
    return {
        "views": dict(fleet.views),
        "free": list(fleet.free_owners),
        "idle": list(fleet.idle_assistants),
        "counts": (fleet.soon_free, fleet.full, fleet.standings),
        "standing": {one: fleet.standing(one) for one in fleet.views},
        "is free": [fleet.is_free_owner(one) for one in fleet.views] == [one in free for one in fleet.views],
    }


TestChangingFleet = ChangingFleet.TestCase
TestChangingFleet.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
