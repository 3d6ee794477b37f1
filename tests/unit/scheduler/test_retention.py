"""What has ended is deleted by the leader's monotonic clock, once."""

from __future__ import annotations

import pytest

from scheduler import retention
from scheduler.events import RecordClosed
from scheduler.retention import LATER_S, Retention
from shared.clock import ManualClock
from shared.fabric import WriteStatus
from shared.messages import Credit, Report, WorkerState
from shared.types import JobSeq
from tests.unit.scheduler.support import ref, rid


def report(*closed: str) -> Report:
    return Report(ref("w"), 1, WorkerState.READY, JobSeq(0, 0), Credit(0, 0, 0), (), (), tuple(map(rid, closed)))


def test_what_ended_is_due_once_and_not_before_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "AT_ONCE", 2)
    clock = ManualClock()
    kept = Retention(clock, 100.0)
    kept.watch(report("a", "b"), [], 0.0)
    clock.advance(50.0)
    kept.watch(RecordClosed(rid("c"), WriteStatus.DONE), [], 0.0)
    kept.watch(report("a"), [], 0.0)
    kept.watch(RecordClosed(rid("moved on"), WriteStatus.SUPERSEDED), [], 0.0)
    clock.advance(50.0)
    assert kept.due() == (), "the server counts whole seconds"
    clock.advance(LATER_S + 0.1)
    assert kept.due() == ("a", "b"), "from when it was heard of first"
    assert kept.due() == ()
    clock.advance(50.0)
    kept.watch(report("d"), [], 0.0)
    assert kept.due() == ("c",)
    kept.forget()
    clock.advance(1000.0)
    assert kept.due() == (), "another leads"


def test_a_sweep_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "AT_ONCE", 2)
    clock = ManualClock()
    kept = Retention(clock, 1.0)
    kept.watch(report("a", "b", "c"), [], 0.0)
    clock.advance(10.0)
    assert [kept.due(), kept.due(), kept.due()] == [("a", "b"), ("c",), ()]
