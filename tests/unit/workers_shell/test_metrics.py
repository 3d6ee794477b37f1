"""Figures of a worker that a quiet run does not show: bad transfers, head starts for nothing, preemptions, ends."""

from __future__ import annotations

import pytest
from prometheus_client import generate_latest

from shared.clock import ManualClock
from shared.errors import ConfigError
from shared.messages import AssistState, Credit, Report, WorkerState
from shared.metrics import MetricsDoor, MetricSet, shown
from shared.server import free_port
from shared.types import AssistId, JobSeq, Phase, RequestId, TokenSpan, TransferId, WorkerId, WorkerRef
from tests.support.core_harness import make_spec
from tests.support.scrape import Scraped
from workers.core import WorkerCore, WorkerSettings
from workers.events import Closed, Emit, EndRequest, OpenOutput, PullEnded, SendReport, StartPull, TellStory, Tick, WorkerCommand
from workers.metrics import WorkerMetrics

ME, PEER = WorkerRef(WorkerId("me"), "1"), WorkerRef(WorkerId("peer"), "1")
ANY = Tick()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(100.0)


@pytest.fixture
def metrics(clock: ManualClock) -> WorkerMetrics:
    settings = WorkerSettings(ME, b"f", block_tokens=16, total_blocks=8, token_budget=64, max_sequences=4, max_model_tokens=512)
    return WorkerMetrics(WorkerCore(settings), clock)


def read(metrics: WorkerMetrics) -> Scraped:
    return Scraped(generate_latest(metrics.registry).decode())


def report(*assists: tuple[str, int]) -> SendReport:
    held = tuple(AssistState(AssistId(name), RequestId("r"), offered, False) for name, offered in assists)
    return SendReport(Report(ME, 1, WorkerState.READY, JobSeq(1, 1), Credit(0, 0, 0), assists=held))


def pull(number: int) -> StartPull:
    return StartPull(TransferId(number), RequestId("r"), 1, AssistId("a"), PEER, TokenSpan(0, 192), (), 2.0)


def test_a_transfer_that_is_bad_in_part_or_never_comes(metrics: WorkerMetrics) -> None:
    metrics.watch([ANY], [pull(1), pull(2), pull(3)])
    metrics.watch([PullEnded(TransferId(1), 192, 3072, 0.01)], [])
    metrics.watch([PullEnded(TransferId(2), 64, 3072, 0.01, "2 of 3 granules have another digest")], [])
    metrics.watch([PullEnded(TransferId(3), 0, 0, 0.0, "deadline")], [])
    metrics.watch([PullEnded(TransferId(3), 0, 0, 0.0, "again")], [])
    told = read(metrics)
    assert [told("headstart:kv_transfers_total", result=result) for result in ("good", "partial", "failed")] == [1, 1, 1]
    assert told("headstart:kv_verification_failures_total") == 1
    assert told("headstart:recomputed_tokens_total", cause="transfer") == 128 + 192
    assert told("headstart:kv_transfer_bytes_total", direction="in") == 6144
    assert told("headstart:kv_transfer_tokens_sum") == 256


def test_a_head_start_that_nobody_took_was_for_nothing(metrics: WorkerMetrics) -> None:
    metrics.watch([ANY], [report(("a", 0), ("b", 64))])
    metrics.watch([ANY], [report(("a", 0), ("b", 128))])
    metrics.watch([ANY], [report()])
    told = read(metrics)
    assert told("headstart:head_starts_given_total") == told("headstart:head_starts_wasted_total") == 1
    assert told("headstart:head_starts_taken_total") == 0
    assert told("headstart:head_start_tokens_total", outcome="given") == told("headstart:head_start_tokens_total", outcome="wasted") == 128


def test_times_and_ends_of_requests(metrics: WorkerMetrics, clock: ManualClock) -> None:
    spec = make_spec("r", 100)
    clock.advance(1.0)
    metrics.watch([ANY], [OpenOutput(spec, 1, ())])
    clock.advance(0.5)
    metrics.watch([ANY], [emit(0)])
    clock.advance(0.25)
    metrics.watch([ANY], [emit(1), TellStory(spec.request_id, "preempted", {"num_tokens": 102, "num_computed": 101})])
    clock.advance(0.25)
    metrics.watch([Closed(spec.request_id, 1)], [EndRequest(spec.request_id, 1, Phase.FAILED, "it broke")])
    told = read(metrics)
    assert told("headstart:time_to_first_token_seconds_sum") == 0.5
    assert (told("headstart:inter_token_latency_seconds_sum"), told("headstart:inter_token_latency_seconds_count")) == (0.25, 1)
    assert told("headstart:e2e_request_latency_seconds_sum") == 1.0
    assert told("headstart:prompt_tokens_total") == 100
    assert told("headstart:num_preemptions_total") == 1
    assert told("headstart:recomputed_tokens_total", cause="preemption") == 101
    assert told("headstart:request_success_total", finished_reason="error") == 1


def emit(index: int) -> WorkerCommand:
    return Emit(RequestId("r"), 1, 0, index, (5,), (0.0,))


def test_a_taken_port_is_refused_by_its_option() -> None:
    registry, door = MetricSet().registry, MetricsDoor(free_port())
    with shown(registry, door):
        with pytest.raises(ConfigError, match=f"--metrics-port {door.port}"), shown(registry, door):
            pass
