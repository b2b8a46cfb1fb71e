"""Measurements for Ray, which has them on the Prometheus endpoint of each of its nodes."""

from collections.abc import Iterable
from typing import Any

from ray.util import metrics as ray_metrics

from antiphon.serve.metric_names import METRICS, PREFIX, Metric


class RayMetrics:
    """A `MetricSink`. Ray puts `ray_` before the names, and says which process they are of."""

    def __init__(self, metrics: Iterable[Metric] = METRICS) -> None:
        self._made = {metric: self._make(metric) for metric in metrics}

    def _make(self, metric: Metric) -> Any:
        name = f"{PREFIX}{metric.name}"
        match metric.kind:
            case "counter":
                return ray_metrics.Counter(name, metric.meaning, metric.labels)
            case "gauge":
                return ray_metrics.Gauge(name, metric.meaning, metric.labels)
            case "histogram":
                return ray_metrics.Histogram(
                    name, metric.meaning, list(metric.buckets), metric.labels
                )

    def _tags(self, metric: Metric, labels: tuple[str, ...]) -> dict[str, str]:
        return dict(zip(metric.labels, labels, strict=True))

    def add(self, metric: Metric, amount: float, labels: tuple[str, ...]) -> None:
        if amount > 0:  # Ray refuses nothing
            self._made[metric].inc(amount, self._tags(metric, labels))

    def set(self, metric: Metric, value: float, labels: tuple[str, ...]) -> None:
        self._made[metric].set(value, self._tags(metric, labels))

    def observe(self, metric: Metric, value: float, labels: tuple[str, ...]) -> None:
        self._made[metric].observe(value, self._tags(metric, labels))
