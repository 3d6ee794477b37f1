"""What the gateway counts: vLLM's names for what users' dashboards already show, ours for the rest. One registry per process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gateway.fold import LogLost
from gateway.tail import Entries
from shared.messages import LogEnd, LogTokens
from shared.tallies import TallyCounter, TallyHistogram
from shared.types import FinishReason, Phase

TTFT_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
ITL_BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
LATENCY_BUCKETS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
TOKEN_BUCKETS = tuple(float(step * 10**power) for power in range(6) for step in (1, 2, 5))

S = TypeVar("S", Gauge, Histogram, Counter)


class Metrics:
    """Every series of this process. Those under `vllm:` mean what vLLM's mean, seen from the front end that accepted the request."""

    def __init__(self, model: str, beside: Metrics | None = None) -> None:
        """`beside`: another model's of this process, under the same series names."""
        self.registry: CollectorRegistry = beside.registry if beside else CollectorRegistry()
        self._families: dict[str, Gauge | Histogram | Counter] = beside._families if beside else {}
        self._model = model
        self.running = self._gauge("vllm:num_requests_running", "Requests that have their first token and have not ended.")
        self.waiting = self._gauge("vllm:num_requests_waiting", "Accepted requests that have no token yet.")
        self.ttft = self._histogram("vllm:time_to_first_token_seconds", "From arrival at the gateway to the first token.", TTFT_BUCKETS)
        labels = {"model_name": model}
        itl = ("vllm:inter_token_latency_seconds", "Between tokens, by the owner's clock.")
        self.itl = TallyHistogram(*itl, ITL_BUCKETS, labels, self.registry)
        self.e2e = self._histogram("vllm:e2e_request_latency_seconds", "From arrival at the gateway to the end.", LATENCY_BUCKETS)
        self.prompt_sizes = self._histogram("vllm:request_prompt_tokens", "Prompt tokens of a request.", TOKEN_BUCKETS)
        self.generation_sizes = self._histogram("vllm:request_generation_tokens", "Generated tokens of a request.", TOKEN_BUCKETS)
        self.prompt_tokens = self._counter("vllm:prompt_tokens", "Prompt tokens of accepted requests.").labels(model)
        self.generation_tokens = TallyCounter("vllm:generation_tokens", "Tokens generated.", labels, self.registry)
        self._success = self._counter("vllm:request_success", "Ended requests.", "finished_reason")
        self._targets = self._counter("headstart:request_targets", "Ended requests with targets of their own.", "result")
        self._rejected = self._counter("headstart:gateway_rejections", "Requests not accepted.", "reason")
        self._lost = self._counter("headstart:gateway_logs_lost", "Streams ended because the server lost their log.", "reason")
        self.streams = self._gauge("headstart:gateway_streams", "Open SSE streams.")
        self.followed = self._gauge("headstart:gateway_followed_logs", "Logs this gateway reads.")
        self.drops = self._gauge("headstart:gateway_buffer_drops", "Times a slow client's buffer was given up for a later read of the log.")

    def ended(self, reason: str) -> None:
        self._success.labels(self._model, reason).inc()

    def held_to_targets(self, result: str) -> None:
        """`met`, `ttft_missed`, `itl_missed` or `both_missed`: goodput is the rate of the first."""
        self._targets.labels(self._model, result).inc()

    def rejected(self, reason: str) -> None:
        self._rejected.labels(self._model, reason).inc()

    def lost(self, reason: str) -> None:
        self._lost.labels(self._model, reason).inc()

    def exposition(self) -> bytes:
        return generate_latest(self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return self._family(name, lambda: Gauge(name, text, ["model_name"], registry=self.registry)).labels(self._model)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        made = self._family(name, lambda: Histogram(name, text, ["model_name"], buckets=buckets, registry=self.registry))
        return made.labels(self._model)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return self._family(name, lambda: Counter(name, text, ["model_name", *labels], registry=self.registry))

    def _family(self, name: str, make: Callable[[], S]) -> S:
        """A series is registered once, whatever the number of models."""
        if name not in self._families:
            self._families[name] = make()
        return cast("S", self._families[name])


@dataclass(frozen=True, slots=True)
class Targets:
    """Seconds that a request asked for itself; 0: none. Between tokens its mean counts."""

    ttft_s: float = 0.0
    itl_s: float = 0.0

    def result(self, ttft_s: float, itl_s: float) -> str:
        first, later = not self.ttft_s or ttft_s <= self.ttft_s, not self.itl_s or itl_s <= self.itl_s
        return "met" if first and later else "itl_missed" if first else "ttft_missed" if later else "both_missed"


NO_TARGETS = Targets()


@dataclass(slots=True)
class Meter:
    """Watches one request that this process accepted, from its arrival to its end, whoever follows it."""

    metrics: Metrics
    prompt_tokens: int
    arrived: float = field(default_factory=time.monotonic)
    generated: int = 0
    last_ms: int = 0
    finish: FinishReason | None = None
    done: bool = False
    targets: Targets = NO_TARGETS
    choices: int = 1
    first_s: float = float("inf")
    """Arrival to first token."""
    first_ms: int = 0
    first_tokens: int = 0
    """That came with it."""

    def start(self) -> None:
        """The request was accepted."""
        self.metrics.waiting.inc()
        self.metrics.prompt_tokens.inc(self.prompt_tokens)
        self.metrics.prompt_sizes.observe(self.prompt_tokens)

    def push(self, entries: Entries) -> None:
        for logged in entries:
            if self.done:
                return
            if isinstance(logged.entry, LogTokens):
                self._tokens(logged.entry)
            else:
                self._end(logged.entry)

    def fail(self, error: LogLost) -> None:
        self.metrics.lost(error.code)
        self._finish("error")

    def _tokens(self, entry: LogTokens) -> None:
        count = len(entry.token_ids)
        if not self.generated:
            self.first_s, self.first_ms, self.first_tokens = time.monotonic() - self.arrived, entry.at_ms, count
            self.metrics.ttft.observe(self.first_s)
            self.metrics.waiting.dec()
            self.metrics.running.inc()
        elif count:
            self.metrics.itl.observe(max(0, entry.at_ms - self.last_ms) / 1000 / count, count)
        self.generated += count
        self.last_ms, self.finish = entry.at_ms, entry.finish or self.finish
        self.metrics.generation_tokens.inc(count)

    def _end(self, end: LogEnd) -> None:
        reasons = {Phase.FINISHED: str(self.finish or FinishReason.STOP), Phase.CANCELLED: "abort"}
        self._finish(reasons.get(end.phase, "error"))

    def _finish(self, reason: str) -> None:
        if self.done:
            return
        self.done = True
        (self.metrics.running if self.generated else self.metrics.waiting).dec()
        self.metrics.e2e.observe(time.monotonic() - self.arrived)
        self.metrics.generation_sizes.observe(self.generated)
        self.metrics.ended(reason)
        if self.targets != NO_TARGETS:
            self.metrics.held_to_targets(self._kept())

    def _kept(self) -> str:
        """Who got no token at all missed its first."""
        later = (self.generated - self.first_tokens) / self.choices
        return self.targets.result(self.first_s, max(0, self.last_ms - self.first_ms) / 1000 / later if later else 0.0)
