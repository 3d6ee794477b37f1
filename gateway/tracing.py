"""The gateway's span: a request from its arrival to its end in the log, whoever follows it. An incoming `traceparent` is its parent."""

from __future__ import annotations

from opentelemetry import context as contexts
from opentelemetry import propagate, trace
from opentelemetry.trace import Status, StatusCode, Tracer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.fold import LogLost
from gateway.tail import Entries
from shared.messages import LogEnd, LogTokens
from shared.tracing import carried, tracer
from shared.types import Phase, RequestId


class IncomingTrace:
    """Makes the caller's trace context current, where the framework has not done so already (it does with an SDK). Plain ASGI."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or trace.get_current_span().get_span_context().is_valid:
            await self._app(scope, receive, send)
            return
        token = contexts.attach(propagate.extract(Headers(scope=scope)))
        try:
            await self._app(scope, receive, send)
        finally:
            contexts.detach(token)


class RequestTrace:
    """The span `request`; a consumer of the request's log, whose end ends it."""

    def __init__(self, into: Tracer | None = None) -> None:
        self._span = (into or tracer()).start_span("request")
        self._tokens = 0

    @property
    def text(self) -> str:
        """For the scheduler and the workers."""
        return carried(self._span)

    @property
    def watches(self) -> bool:
        return self._span.is_recording()

    def accepted(self, request_id: RequestId, model: str, prompt_tokens: int) -> None:
        self._span.set_attributes(
            {"headstart.request": request_id, "gen_ai.request.model": model, "gen_ai.usage.input_tokens": prompt_tokens}
        )

    def refused(self, error: BaseException) -> None:
        """Its message may quote the request: the kind alone is told."""
        self._end(type(error).__name__)

    def repeated(self) -> None:
        """An idempotency key led to an earlier request, which has a trace of its own."""
        self._span.set_attribute("headstart.repeated", True)
        self._span.end()

    def push(self, entries: Entries) -> None:
        for logged in entries:
            if isinstance(logged.entry, LogTokens):
                if not self._tokens:
                    self._span.add_event("first token")
                self._tokens += len(logged.entry.token_ids)
            elif self._span.is_recording():
                self._ended(logged.entry)

    def fail(self, error: LogLost) -> None:
        self._end(error.code)

    def _ended(self, end: LogEnd) -> None:
        self._span.set_attributes({"gen_ai.usage.output_tokens": self._tokens, "headstart.phase": str(end.phase)})
        self._end((end.code or "failed") if end.phase is Phase.FAILED else "")

    def _end(self, error: str) -> None:
        if error:
            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end()
