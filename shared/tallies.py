"""A histogram and a counter for what happens with every token: two additions each, no locks; read when somebody scrapes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class TallyHistogram(Collector):
    """As `prometheus_client.Histogram`, for one set of labels and one thread."""

    def __init__(self, name: str, text: str, buckets: tuple[float, ...], labels: dict[str, str], registry: CollectorRegistry) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._bounds = (*buckets, float("inf"))
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0
        registry.register(self)

    def observe(self, value: float, times: int = 1) -> None:
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._text, labels=list(self._labels))
        names = [floatToGoString(bound) for bound in self._bounds]  # type: ignore[no-untyped-call]
        buckets = [(name, float(count)) for name, count in zip(names, accumulate(self._counts), strict=True)]
        family.add_metric(list(self._labels.values()), buckets, self._sum)
        yield family


class TallyCounter(Collector):
    """As `prometheus_client.Counter`, likewise."""

    def __init__(self, name: str, text: str, labels: dict[str, str], registry: CollectorRegistry) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._count = 0
        registry.register(self)

    def inc(self, count: int = 1) -> None:
        self._count += count

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._name, self._text, labels=list(self._labels))
        family.add_metric(list(self._labels.values()), self._count)
        yield family
