"""Moves by cause, refused placements, ends; and a scheduler that is deposed shows nothing of what another leads."""

from __future__ import annotations

from prometheus_client import generate_latest

from scheduler.events import Deposed, Elected, EndWritten, Placed, Requeue, Requeued, TellStory, Tick, WriteEnd
from scheduler.metrics import SchedulerMetrics
from shared.clock import ManualClock
from shared.fabric import WriteStatus
from shared.messages import Assign, AssistOrder, Credit, Report, Source, WorkerState
from shared.types import AssistId, JobSeq, MoveCause, Phase, RequestId, WorkerId, WorkerRef
from tests.support.scrape import Scraped

ONE, TWO = WorkerRef(WorkerId("one"), "1"), WorkerRef(WorkerId("two"), "1")
R = RequestId("r")


def read(metrics: SchedulerMetrics) -> Scraped:
    return Scraped(generate_latest(metrics.registry).decode())


def test_a_move_counts_once_under_its_cause_and_only_when_it_took_effect() -> None:
    metrics = SchedulerMetrics(ManualClock())
    for cause, status in (
        (MoveCause.CRASH, WriteStatus.DONE),
        (MoveCause.CRASH, WriteStatus.ENDED),
        (MoveCause.RETURNED, WriteStatus.DONE),
    ):
        metrics.watch(Tick(), [Requeue(R, 2, 10, cause)], 1e-5)
        metrics.watch(Tick(), [Requeue(R, 2, 10, cause)], 1e-5)
        metrics.watch(Requeued(R, 2, 10, status), [], 1e-5)
        metrics.watch(Requeued(R, 2, 10, status), [], 1e-5)
    told = read(metrics)
    assert told("headstart:moves_total", cause="crash") == told("headstart:moves_total", cause="returned") == 1
    assert told("headstart:moves_total") == 2
    assert told("headstart:decision_seconds_count") == 12


def test_cuts_placements_and_ends() -> None:
    metrics = SchedulerMetrics(ManualClock())
    with_cut = Assign(JobSeq(1, 1), R, 1, 200, Source(AssistId("a"), TWO, 128))
    whole = Assign(JobSeq(1, 2), R, 1, 200)
    order = AssistOrder(JobSeq(1, 3), AssistId("a"), R, 128)
    for job, status in ((with_cut, WriteStatus.DONE), (whole, WriteStatus.DONE), (whole, WriteStatus.CANCELLED), (order, WriteStatus.DONE)):
        metrics.watch(Placed(ONE, job, status), [], 1e-5)
    metrics.watch(Tick(), [TellStory(R, "head_start_lost", {}), WriteEnd(R, 2, Phase.FAILED)], 1e-5)
    metrics.watch(EndWritten(R, 2, WriteStatus.DONE), [], 1e-5)
    told = read(metrics)
    assert told("headstart:placements_total", job="assign", status="done") == 2
    assert told("headstart:placements_total", job="assign", status="cancelled") == 1
    assert (told("headstart:cut_tokens_count"), told("headstart:cut_tokens_bucket", le="0.0")) == (2, 1)
    assert told("headstart:cut_share_sum") == 0.64
    assert {outcome: told("headstart:head_starts_total", outcome=outcome) for outcome in ("ordered", "taken", "lost")} == {
        "ordered": 1,
        "taken": 1,
        "lost": 1,
    }
    assert told("headstart:requests_ended_total", phase="failed") == 1


def test_who_is_deposed_shows_nothing() -> None:
    metrics = SchedulerMetrics(ManualClock())
    metrics.watch(Elected(1), [], 1e-5)
    for ref in (ONE, TWO):
        metrics.watch(Report(ref, 1, WorkerState.READY, JobSeq(1, 1), Credit(1, 1, 1)), [], 1e-5)
    told = read(metrics)
    assert (told("headstart:scheduler_leading"), told("headstart:workers")) == (1, 2)
    metrics.watch(Deposed(), [], 1e-5)
    told = read(metrics)
    assert (told("headstart:scheduler_leading"), told("headstart:workers")) == (0, 0)
