"""One trace for a request, across gateway, scheduler and both workers, read from memory; and nothing without an SDK that is set up."""

from __future__ import annotations

from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, SpanContext, StatusCode, TraceFlags

from gateway.settings import GatewaySettings
from scheduler.loop import SchedulerLoop
from scheduler.settings import SchedulerSettings
from scheduler.tracing import SchedulerTracing
from shared import tracing
from shared.clock import SystemClock
from shared.redis_fabric import RedisFabric
from tests.support.gateway_server import Served, served
from tests.support.one_process import scheduling, working
from tests.support.waiting import eventually
from workers.loopback_transport import LoopbackHub
from workers.tracing import WorkerTracing

WEIGHTS = Path(__file__).parents[2] / "examples" / "demo_model" / "weights"
QUESTION = "It is a truth universally acknowledged, that a single man in possession of a good fortune must be in want. " * 8
CUT = 128
TRACE, PARENT = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
INCOMING = {"traceparent": f"00-{TRACE:032x}-{PARENT:016x}-01", "tracestate": "vendor=7"}
NAMES = ["decode", "head start", "prefill", "queue", "request", "transfer"]


async def test_one_trace_from_door_to_door(valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    monkeypatch.setattr("gateway.tracing.tracer", lambda: tracer)
    hub, clock = LoopbackHub(immediate=True), SystemClock()
    fabric = await RedisFabric.connect(valkey_url)
    settings = GatewaySettings(valkey_url, WEIGHTS, "demo", poll_s=0.05)
    async with (
        scheduling(valkey_url, SchedulerSettings(policy="fixed-cut", cut_tokens=CUT)) as scheduler,
        working(valkey_url, WEIGHTS, "low", hub, slowdown=4.0) as low,
        working(valkey_url, WEIGHTS, "high", hub) as high,
        served(settings, fabric) as gateway,
    ):
        scheduler.watches.append(SchedulerTracing(clock, tracer).watch)
        for worker in (low, high):
            worker.watches.append(WorkerTracing(worker.info.ref, clock, tracer).watch)
        await eventually(lambda: both_known(scheduler), 30)
        request_id = await complete(gateway, INCOMING)

        async def told() -> list[ReadableSpan]:
            spans = list(exporter.get_finished_spans())
            return spans if len(spans) >= len(NAMES) else []

        a_whole_trace(await eventually(told, 30), request_id, str(low.info.ref), str(high.info.ref))
        exporter.clear()
        await complete(gateway, {"traceparent": INCOMING["traceparent"][:-2] + "00"})
        await a_refusal_is_told_without_its_words(gateway, exporter)
    await fabric.disconnect()


async def both_known(scheduler: SchedulerLoop) -> bool:
    """Else the first to join would get the request whole."""
    return "1 own, 1 assist" in repr(scheduler.core)


async def complete(gateway: Served, headers: dict[str, str]) -> str:
    body = {"model": "demo", "prompt": QUESTION, "max_tokens": 6, "ignore_eos": True, "seed": 1}
    answer = await gateway.http.post("/v1/completions", json=body, headers=headers)
    return str(answer.raise_for_status().json()["id"]).removeprefix("cmpl-")


def a_whole_trace(spans: list[ReadableSpan], request_id: str, low: str, high: str) -> None:
    by_name = {span.name: span for span in spans}
    assert sorted(span.name for span in spans) == NAMES
    assert {span.context.trace_id for span in spans if span.context} == {TRACE}
    root = by_name.pop("request")
    assert root.parent is not None
    assert root.context is not None
    assert (root.parent.span_id, root.parent.trace_state.get("vendor")) == (PARENT, "7")
    assert {span.parent.span_id for span in by_name.values() if span.parent} == {root.context.span_id}
    attributes = {name: dict(span.attributes or {}) for name, span in by_name.items()}
    assert {told["headstart.request"] for told in attributes.values()} == {request_id}
    workers = {name: told["headstart.worker"] for name, told in attributes.items()}
    assert workers == {"head start": low, "queue": high, "transfer": high, "prefill": high, "decode": high}
    assert attributes["head start"]["headstart.tokens"] == attributes["queue"]["headstart.cut_tokens"] == CUT
    assert (attributes["transfer"]["headstart.good_tokens"], attributes["transfer"]["headstart.source"]) == (CUT, low)
    assert attributes["decode"]["headstart.generated_tokens"] == (root.attributes or {})["gen_ai.usage.output_tokens"] == 6
    assert [event.name for event in root.events] == ["first token"]
    order = [by_name[name].start_time or 0 for name in ("queue", "transfer", "prefill", "decode")]
    assert order == sorted(order)
    assert all(span.status.status_code is not StatusCode.ERROR for span in spans)


async def a_refusal_is_told_without_its_words(gateway: Served, exporter: InMemorySpanExporter) -> None:
    """What was not sampled before left nothing."""
    body = {"model": "demo", "prompt": "secret words", "max_tokens": 1_000_000}
    assert (await gateway.http.post("/v1/completions", json=body, headers=INCOMING)).status_code == 400
    (refused,) = exporter.get_finished_spans()
    assert (refused.name, refused.status.status_code, refused.status.description) == ("request", StatusCode.ERROR, "BadRequest")
    assert "secret" not in refused.to_json()


def test_a_context_survives_its_way_and_what_is_not_sampled_stays_at_home() -> None:
    sampled = NonRecordingSpan(SpanContext(TRACE, PARENT, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED)))
    text = tracing.carried(sampled)
    assert text == INCOMING["traceparent"]
    assert tracing.context_of(text) is not None
    assert tracing.carried(NonRecordingSpan(SpanContext(TRACE, PARENT, is_remote=True))) == ""
    assert tracing.carried(INVALID_SPAN) == ""
    assert tracing.context_of("") is None


@pytest.mark.parametrize(
    "environ",
    [{}, {"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"}],
)
def test_it_is_off_unless_asked_for(environ: dict[str, str]) -> None:
    assert not tracing.configure("worker", environ)


def test_without_an_sdk_it_says_so_and_goes_on(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(tracing, "entry_points", lambda **_: ())
    assert not tracing.configure("worker", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"})
    assert "no OpenTelemetry SDK is installed" in caplog.text


def test_the_installed_sdk_sets_itself_up(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    class Configurator:
        def configure(self) -> None:
            called.append("configured")

    class Entry:
        def load(self) -> type[Configurator]:
            return Configurator

    monkeypatch.setattr(tracing, "entry_points", lambda **_: (Entry(),))
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    assert tracing.configure("scheduler", environ)
    assert called == ["configured"]
    assert (environ["OTEL_TRACES_EXPORTER"], environ["OTEL_SERVICE_NAME"]) == ("otlp", "headstart-scheduler")
