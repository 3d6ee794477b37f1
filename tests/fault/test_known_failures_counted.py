"""Number 16: each of the other failures moves a series by which an operator sees it. Metrics watch real cores, as in the shells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client import generate_latest

from scheduler.events import SchedulerCommand, SchedulerEvent
from scheduler.metrics import SchedulerMetrics
from shared.clock import ManualClock
from shared.messages import Cancel, Pull, ReleaseAssist, Returned, Source
from shared.types import AssistId, RequestId, TransferId
from tests.fault.test_found import HIGH, LOW, R1, assigned, make_core, only
from tests.fault.test_known_failures import offered, pull
from tests.support.scrape import Scraped
from tests.unit.scheduler.support import Driver, owned
from workers.core import WorkerCore
from workers.events import Closed, PullEnded, SendEnded, SendKv, StartPull, StepFailed, WorkerEvent
from workers.events import Launch as LaunchStep
from workers.events import Tick as WorkerTick
from workers.handover_alarm import BARREN
from workers.handover_alarm import HandoverAlarm as WorkerAlarm
from workers.metrics import WorkerMetrics

TRANSFER = TransferId(1)


class Watched:
    """A worker's core with its metrics."""

    def __init__(self, core: WorkerCore) -> None:
        self.core = core
        self.clock = ManualClock(0.0)
        self.metrics = WorkerMetrics(core, self.clock)

    def tell(self, *events: WorkerEvent) -> Watched:
        for event in events:
            self.clock.advance(0.01)
            self.metrics.watch([event], self.core.handle(event, self.clock.monotonic()))
        return self

    def __call__(self, series: str, **labels: str) -> float:
        return Scraped(generate_latest(self.metrics.registry).decode())(f"headstart:{series}", **labels)


def pulling(*ends: PullEnded) -> Watched:
    """An owner that pulls 64 tokens of `r1`, and what comes of it."""
    return Watched(make_core(HIGH)).tell(assigned("r1", 1, Source(AssistId("x"), LOW, 64)), *ends)


def asked(**changes: object) -> Watched:
    """A low-end that is asked for something that it does not have."""
    core = offered()
    return Watched(core).tell(pull(core, **changes))


def test_16_01_a_stale_reference() -> None:
    told = pulling(PullEnded(TRANSFER, 0, 4096, 0.1, "1 of 1 granules have another digest"))
    assert told("kv_verification_failures_total") == 1
    assert told("recomputed_tokens_total", cause="transfer") == 64


def test_16_02_a_consumed_reference() -> None:
    assert asked(assist=AssistId("consumed"))("kv_pulls_refused_total") == 1


def test_16_03_a_producer_that_dies() -> None:
    assert pulling(PullEnded(TRANSFER, 0, 0, 0.1, "deadline"))("kv_transfers_total", direction="in", result="failed") == 1


def test_16_04_a_producer_that_cannot_send() -> None:
    core = offered()
    told = Watched(core)
    asking: Pull = pull(core)
    commands = core.handle(asking, 0.5)
    assert only(commands, SendKv)
    told.metrics.watch([asking], commands)
    told.tell(SendEnded(TRANSFER, HIGH, "no staging memory"))
    assert told("kv_transfers_total", direction="out", result="failed") == 1


def test_16_05_one_transient_failure() -> None:
    told = pulling(PullEnded(TRANSFER, 0, 0, 0.1, "cut"))
    commands = told.core.handle(assigned("r2", 2, Source(AssistId("y"), LOW, 64)), 1.0)
    (start,) = only(commands, StartPull)
    assert isinstance(start, StartPull)
    told.metrics.watch([WorkerTick()], commands)
    told.tell(PullEnded(start.transfer, 64, 4096, 0.1))
    assert [told("kv_transfers_total", direction="in", result=result) for result in ("failed", "good")] == [1, 1]


def test_16_06_a_prefill_that_was_given_up() -> None:
    told = Watched(offered()).tell(WorkerTick())
    told.clock.advance(5.0)
    told.tell(WorkerTick(), ReleaseAssist(AssistId("r1")))
    told.clock.advance(5.0)
    told.tell(WorkerTick())
    assert told("head_starts_wasted_total") == 1


def test_16_07_another_layout() -> None:
    assert asked(fingerprint=b"another")("kv_pulls_refused_total") == 1


def test_16_08_a_slow_or_lossy_link() -> None:
    told = Watched(make_core(HIGH)).tell(assigned("r1", 1, Source(AssistId("x"), LOW, 128)), PullEnded(TRANSFER, 64, 4096, 2.0, "deadline"))
    assert told("kv_transfers_total", direction="in", result="partial") == 1
    assert told("kv_transfer_seconds_sum") == 2.0


def test_16_09_an_engine_that_fails() -> None:
    core = make_core(HIGH)
    (launch,) = only(core.handle(assigned("r1", 1), 0.0), LaunchStep)
    assert isinstance(launch, LaunchStep)
    assert Watched(core).tell(StepFailed(launch.plan.step, "device lost"))("failed_steps_total") == 1


def test_16_10_a_client_that_leaves() -> None:
    told = Watched(make_core(HIGH)).tell(assigned("r1", 1), Cancel(R1), Closed(R1, 1))
    assert told("request_success_total", finished_reason="abort") == 1


def moved(commands_of: Iterable[tuple[SchedulerEvent, Sequence[SchedulerCommand]]]) -> Scraped:
    metrics = SchedulerMetrics(ManualClock(0.0))
    for event, commands in commands_of:
        metrics.watch(event, commands, 1e-5)
    return Scraped(generate_latest(metrics.registry).decode())


class Recorder(Driver):
    """Keeps what was said and what came of it."""

    def __init__(self) -> None:
        self.said: list[tuple[SchedulerEvent, list[SchedulerCommand]]] = []
        super().__init__()

    def send(self, event: SchedulerEvent) -> list[SchedulerCommand]:
        commands = super().send(event)
        self.said.append((event, commands))
        return commands


def running() -> Recorder:
    d = Recorder()
    d.join("fast")
    d.run("a")
    return d


def test_16_11_scale_down() -> None:
    d = running()
    d.report("fast", Returned(RequestId("a"), 1, "draining"))
    d.move_on("a")
    assert moved(d.said)("headstart:moves_total", cause="returned") == 1


def test_16_12_workers_that_are_not_there() -> None:
    d = Recorder()
    d.known("a")
    d.tick(1.0)
    told = moved(d.said)
    assert told("headstart:num_requests_waiting") == 1
    assert told("headstart:workers") == 0


def test_16_13_and_14_a_stream_whose_worker_dies() -> None:
    d = running()
    d.report("fast", owned("a"))
    d.tick(4.0)
    d.move_on("a", next_index=3)
    assert moved(d.said)("headstart:moves_total", cause="crash") == 1


def test_16_15_disaggregation_that_does_not_happen() -> None:
    told = Watched(make_core(HIGH))
    alarm = WorkerAlarm(told.metrics.alarmed)
    for number in range(BARREN):
        alarm.watch([PullEnded(TransferId(number), 0, 0, 0.1, "deadline")], ())
    assert told("handover_alarms_total", cause="pulls_fail") == 1
