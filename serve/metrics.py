"""Prometheus metrics of one server process, under vLLM's names where the meaning is the same."""

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from antiphon.engine.outputs import RequestOutput
from antiphon.serve.admission import Admission

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LATENCIES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300)


class Metrics:
    """Counters of requests, by model; the engines' own are added when they are read."""

    def __init__(self, admission: Admission) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._admission = admission
        model, prefix = ["model_name"], "antiphon"
        self.requests = Counter(
            f"{prefix}_http_requests", "answers by endpoint and status",
            ["path", "status"], registry=self.registry,
        )  # fmt: skip
        self.success = Counter(
            f"{prefix}_request_success", "requests that ended well",
            ["model_name", "finished_reason"], registry=self.registry,
        )  # fmt: skip
        self.prompt_tokens = Counter(
            f"{prefix}_prompt_tokens", "encoder and prompt tokens", model, registry=self.registry
        )
        self.generation_tokens = Counter(
            f"{prefix}_generation_tokens", "generated tokens", model, registry=self.registry
        )
        self.audio_seconds = Counter(
            f"{prefix}_audio_seconds", "sound transcribed", model, registry=self.registry
        )
        self.first_token = Histogram(
            f"{prefix}_time_to_first_token_seconds", "from arrival", model,
            buckets=LATENCIES, registry=self.registry,
        )  # fmt: skip
        self.latency = Histogram(
            f"{prefix}_e2e_request_latency_seconds", "from arrival to the end", model,
            buckets=LATENCIES, registry=self.registry,
        )  # fmt: skip
        self.open = Gauge(f"{prefix}_num_requests_running", "open", registry=self.registry)
        self.turned_away = Gauge(
            f"{prefix}_num_requests_turned_away", "answered 429", registry=self.registry
        )
        self.engine = Gauge(
            f"{prefix}_engine", "counters of the decoders by name",
            ["model_name", "counter"], registry=self.registry,
        )  # fmt: skip

    def count(self, model: str, prompt_tokens: int, tokens: int, reason: str | None) -> None:
        """A request that ended well."""
        self.success.labels(model, reason or "stop").inc()
        self.tokens(model, prompt_tokens, tokens)

    def tokens(self, model: str, prompt_tokens: int, tokens: int) -> None:
        self.prompt_tokens.labels(model).inc(prompt_tokens)
        self.generation_tokens.labels(model).inc(tokens)

    def observe(self, model: str, output: RequestOutput) -> None:
        """The times of one prompt."""
        times = output.metrics
        if times is None:
            return
        if times.first_token_at is not None:
            self.first_token.labels(model).observe(times.first_token_at - times.arrived_at)
        if times.finished_at is not None:
            self.latency.labels(model).observe(times.finished_at - times.arrived_at)

    def text(self, engines: Mapping[str, Mapping[str, Any]]) -> bytes:
        """All of them in Prometheus' format. `engines`: counters of each model's decoders."""
        self.open.set(self._admission.open)
        self.turned_away.set(self._admission.turned_away)
        for model, counters in engines.items():
            for name, value in counters.items():
                self.engine.labels(model, name).set(value)
        return generate_latest(self.registry)
