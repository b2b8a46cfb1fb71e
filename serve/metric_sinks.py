"""Where measurements go: to the page /metrics of one server process, and to Ray."""

from collections.abc import Iterable
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from antiphon.serve.metric_names import METRICS, PREFIX, Metric


class MetricSink(Protocol):
    """`labels`: values in the order of the metric's labels."""

    def add(self, metric: Metric, amount: float, labels: tuple[str, ...]) -> None: ...

    def set(self, metric: Metric, value: float, labels: tuple[str, ...]) -> None: ...

    def observe(self, metric: Metric, value: float, labels: tuple[str, ...]) -> None: ...


class PrometheusPage:
    """Metrics of this process in Prometheus' text format."""

    def __init__(self, metrics: Iterable[Metric] = METRICS) -> None:
        self._registry = CollectorRegistry(auto_describe=True)
        self._made = {metric: self._make(metric) for metric in metrics}

    def _make(self, metric: Metric) -> Any:
        options: dict[str, Any] = {"labelnames": metric.labels, "registry": self._registry}
        if metric.buckets:
            options["buckets"] = metric.buckets
        kind = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}[metric.kind]
        return kind(f"{PREFIX}{metric.name}", metric.meaning, **options)

    def _of(self, metric: Metric, labels: tuple[str, ...]) -> Any:
        return self._made[metric].labels(*labels) if labels else self._made[metric]

    def add(self, metric: Metric, amount: float, labels: tuple[str, ...]) -> None:
        self._of(metric, labels).inc(amount)

    def set(self, metric: Metric, value: float, labels: tuple[str, ...]) -> None:
        self._of(metric, labels).set(value)

    def observe(self, metric: Metric, value: float, labels: tuple[str, ...]) -> None:
        self._of(metric, labels).observe(value)

    def text(self) -> bytes:
        return generate_latest(self._registry)
