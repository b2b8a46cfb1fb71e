"""What a server measures: once for each answer and each request, never for a token."""

import asyncio
from collections.abc import Iterable, Mapping

from antiphon.engine.ends import failure_of
from antiphon.engine.open_request import OpenRequest
from antiphon.engine.outputs import Transcription
from antiphon.inputs.prepared import tokens_beside_prompt
from antiphon.scheduler.request import Finished, RequestMetrics
from antiphon.serve import metric_names as names
from antiphon.serve.admission import Admission
from antiphon.serve.metric_names import Metric
from antiphon.serve.metric_sinks import MetricSink, PrometheusPage

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER_PATH = "other"  # of paths that are no endpoints: anybody may make up any number of them


class Metrics:
    """For one server process. `sinks`: others beside its page."""

    def __init__(
        self,
        admission: Admission,
        sinks: Iterable[MetricSink] = (),
        sessions: Admission | None = None,
    ) -> None:
        """`sessions`: of realtime."""
        self._admission, self._page = admission, PrometheusPage()
        self._sessions = sessions or Admission(0)
        self._sinks: list[MetricSink] = [self._page, *sinks]
        self._seen: dict[tuple[str, ...], float] = {}  # sums at their last reading

    def _add(self, metric: Metric, amount: float, *labels: str) -> None:
        for sink in self._sinks:
            sink.add(metric, amount, labels)

    def _set(self, metric: Metric, value: float, *labels: str) -> None:
        for sink in self._sinks:
            sink.set(metric, value, labels)

    def _observe(self, metric: Metric, value: float, *labels: str) -> None:
        for sink in self._sinks:
            sink.observe(metric, value, labels)

    # ------------------------------------------------------------------ answers and requests

    def note_answer(self, path: str | None, status: int, seconds: float) -> None:
        """Of HTTP. `path`: the endpoint's."""
        self._add(names.HTTP_REQUESTS, 1, path or OTHER_PATH, str(status))
        self._observe(names.HTTP_SECONDS, seconds, path or OTHER_PATH)

    def note_session(self, path: str | None, status: int) -> None:
        """A WebSocket has ended; its length is no duration of an answer. `status`: of its
        handshake, 101 where there was a session."""
        self._add(names.HTTP_REQUESTS, 1, path or OTHER_PATH, str(status))

    def note_transcription(self, model: str, result: Transcription, seconds: float) -> None:
        """A whole recording, which took so long."""
        self._add(names.AUDIO_SECONDS, result.duration, model)
        if seconds > 0:
            self._observe(names.RTFX, result.duration / seconds, model)

    def note_request(
        self, model: str, opened: OpenRequest, future: "asyncio.Future[Finished]"
    ) -> None:
        """A request of an engine has ended."""
        if (error := failure_of(future)) is not None:
            self._add(names.ERRORS, 1, model, error)
            return
        finished, request = future.result(), opened.request
        self._add(names.SUCCESS, 1, model, finished.reason or "stop")
        prompt = len(request.prompt_token_ids) + tokens_beside_prompt(request.inputs)
        self._add(names.PROMPT_TOKENS, prompt, model)
        self._add(names.GENERATION_TOKENS, len(finished.token_ids), model)
        self._note_times(model, finished.metrics, len(finished.token_ids))

    def _note_times(self, model: str, times: RequestMetrics, num_tokens: int) -> None:
        """What did not happen is not observed."""
        arrived, encoded, first = times.arrived_at, times.encoded_at, times.first_token_at
        if encoded is not None:
            self._observe(names.ENCODE, max(0.0, encoded - arrived), model)
        if times.admitted_at is not None:
            queued = times.admitted_at - (arrived if encoded is None else encoded)
            self._observe(names.QUEUE, max(0.0, queued), model)
        if first is not None:
            self._observe(names.FIRST_TOKEN, max(0.0, first - arrived), model)
        if times.finished_at is not None:
            self._observe(names.LATENCY, max(0.0, times.finished_at - arrived), model)
            if first is not None:
                decoding = max(0.0, times.finished_at - first)
                self._observe(names.DECODE, decoding, model)
                if num_tokens > 1:
                    self._observe(names.PER_TOKEN, decoding / (num_tokens - 1), model)

    # ------------------------------------------------------------------ workers

    def note_workers(self, engines: Mapping[str, Mapping[str, int]]) -> None:
        """The present counters of the workers of each model; empty where they did not answer."""
        self._set(names.HTTP_OPEN, self._admission.open)
        self._set(names.SESSIONS_OPEN, self._sessions.open)
        turned_away = self._admission.turned_away + self._sessions.turned_away
        self._add(names.TURNED_AWAY, self._passed(("turned away",), turned_away))
        for model, counters in engines.items():
            if counters:
                self._note_load(model, counters)
            for name, value in counters.items():
                self._set(names.ENGINE, value, model, name)
                if name in names.FROM_WORKERS:
                    metric, units = names.FROM_WORKERS[name]
                    self._add(metric, self._passed((model, name), value) / units, model)
                elif name.startswith("encoder_batches_of_"):
                    passed = self._passed((model, name), value)
                    self._add(names.ENCODER_BATCHES, passed, model, name.rpartition("_")[2])

    def _note_load(self, model: str, counters: Mapping[str, int]) -> None:
        running, total = counters.get("running", 0), counters.get("kv_pages", 0)
        self._set(names.RUNNING, running, model)
        self._set(names.WAITING, max(0, counters.get("open", 0) - running), model)
        self._set(names.ENCODER_TOKENS, counters.get("encoder_open_tokens", 0), model)
        if total:
            used = 1 - counters.get("kv_pages_available", 0) / total
            self._set(names.PAGES_IN_USE, used, model)
        for kind in ("self", "cross", "cached", "free"):
            self._set(names.PAGES, counters.get(f"kv_pages_{kind}", 0), model, kind)
        if states := counters.get("hidden_state_pages", 0):
            used = 1 - counters.get("hidden_state_pages_available", 0) / states
            self._set(names.STATE_PAGES_IN_USE, used, model)
            for kind in ("used", "cached", "free"):
                count = counters.get(f"hidden_state_pages_{kind}", 0)
                self._set(names.STATE_PAGES, count, model, kind)

    def _passed(self, key: tuple[str, ...], total: float) -> float:
        """By how much a sum has grown. One that fell lacks a worker that is gone: what others have
        added meanwhile is not known."""
        before = self._seen.get(key, 0.0)
        self._seen[key] = total
        return max(0.0, total - before)

    def text(self) -> bytes:
        """In Prometheus' format."""
        return self._page.text()
