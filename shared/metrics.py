"""A process's own Prometheus series, and the small server that shows them: one registry per process, nothing shared."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from shared.errors import ConfigError
from shared.tallies import TallyHistogram

log = logging.getLogger(__name__)

PREFIX = "headstart:"
"""vLLM's form with our name: what one worker or scheduler sees is not what vLLM's series of the same name mean to a dashboard."""

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 600.0, 1800.0)
MICROSECONDS = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.5, 1.0)
TOKENS = (0.0, *(float(64 << step) for step in range(12)))
UNDECODABLE = "Messages skipped: of a version too far from this process's (`version`), or none at all (`bytes`)."
HANDOVER_ALARMS = "Times it was noticed that head starts are configured and do not happen."
SHARES = tuple(step / 10 for step in range(11))


@dataclass(frozen=True, slots=True)
class MetricsDoor:
    """Where a process shows its series; `port` None: nowhere, 0: a free one."""

    port: int | None = None
    host: str = "127.0.0.1"


NO_DOOR = MetricsDoor()


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One series for the documentation."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


class MetricSet:
    """Makes series under our prefix. Labels must come from small closed sets: never a request's id."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.rows: list[MetricRow] = []

    def gauge(self, name: str, text: str) -> Gauge:
        self.rows.append(MetricRow(PREFIX + name, "gauge", (), text))
        return Gauge(PREFIX + name, text, registry=self.registry)

    def counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        self.rows.append(MetricRow(f"{PREFIX}{name}_total", "counter", tuple(labels), text))
        return Counter(PREFIX + name, text, labels, registry=self.registry)

    def histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        self.rows.append(MetricRow(PREFIX + name, "histogram", (), text))
        return Histogram(PREFIX + name, text, buckets=tuple(buckets), registry=self.registry)

    def tally(self, name: str, text: str, buckets: Sequence[float]) -> TallyHistogram:
        """A histogram for what happens with every token."""
        self.rows.append(MetricRow(PREFIX + name, "histogram", (), text))
        return TallyHistogram(PREFIX + name, text, tuple(buckets), {}, self.registry)


@contextmanager
def shown(registry: CollectorRegistry, door: MetricsDoor) -> Generator[None, None, None]:
    """While it is held, `/metrics` answers at the door, from a thread of its own. Raises `ConfigError` if the port is taken."""
    if door.port is None:
        yield
        return
    try:
        server, thread = start_http_server(door.port, door.host, registry)
    except OSError as error:
        raise ConfigError(
            f"--metrics-port {door.port} at {door.host} cannot be listened on ({error.strerror}): choose another, or 0"
        ) from error
    log.info("metrics at http://%s:%d/metrics", door.host, server.server_port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
