"""Traces through the OpenTelemetry API alone: without an SDK that the user installs and configures, every call here does nothing.

A request's context travels as text beside it (`RequestSpec.trace`, `Submission.trace`): W3C `traceparent`, and `tracestate`
behind a space if there is one. Empty: nobody traces this request.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from importlib.metadata import entry_points

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

log = logging.getLogger(__name__)

MAX_CHARS = 1024
NS_PER_MS = 1_000_000
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_W3C = TraceContextTextMapPropagator()

Attributes = Mapping[str, str | int | float | bool]


def configure(role: str, environ: dict[str, str] | None = None) -> bool:
    """Has the installed SDK set itself up, if `OTEL_*` asks for traces; true if it did.

    The SDK is found by the entry point under which its installation announces it, as `opentelemetry-instrument` does.
    """
    env: dict[str, str] | os._Environ[str] = os.environ if environ is None else environ
    wanted = env.get("OTEL_TRACES_EXPORTER") or ("otlp" if any(env.get(name) for name in _ENDPOINTS) else "none")
    if wanted == "none" or env.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    found = entry_points(group="opentelemetry_configurator", name=env.get("OTEL_PYTHON_CONFIGURATOR", "configurator"))
    if not found:
        log.warning(
            "OTEL_* asks for traces, and no OpenTelemetry SDK is installed: pip install opentelemetry-sdk opentelemetry-exporter-otlp"
        )
        return False
    env.setdefault("OTEL_TRACES_EXPORTER", wanted)
    env.setdefault("OTEL_SERVICE_NAME", f"headstart-{role}")
    next(iter(found)).load()().configure()
    return True


def tracer() -> Tracer:
    return trace.get_tracer("headstart")


def carried(span: Span) -> str:
    """The text by which other processes go on from this span; empty if it is not sampled."""
    context = span.get_span_context()
    if not (context.is_valid and context.trace_flags.sampled):
        return ""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, trace.set_span_in_context(span))
    return f"{carrier['traceparent']} {carrier.get('tracestate', '')}".strip()[:MAX_CHARS]


def context_of(text: str) -> Context | None:
    """The inverse of `carried`; None for a request that nobody traces."""
    if not text:
        return None
    parent, _, state = text.partition(" ")
    return _W3C.extract({"traceparent": parent, "tracestate": state}, Context())


def tell(into: Tracer, name: str, parent: Context, start_ms: int, end_ms: int, attributes: Attributes, error: str = "") -> None:
    """A span that is over already. Wall-clock milliseconds; never prompt or output text in `attributes` or `error`."""
    span = into.start_span(name, parent, start_time=start_ms * NS_PER_MS, attributes=dict(attributes))
    if error:
        span.set_status(Status(StatusCode.ERROR, error))
    span.end(max(start_ms, end_ms) * NS_PER_MS)
