"""OpenTelemetry traces: what a request waited for, from the times that it carries anyway. Needs the
extra `otel`; off unless a collector's address is given.

    POST /v1/audio/transcriptions      of the server; continues the client's trace (traceparent);
                                       of /v1/realtime, a whole session
        request                        of the engine: a sample of a prompt, or a window
            encode                     until its inputs were encoded
            queue                      until it had a place in a decoder's batch
            decode                     until its end; the first token is an event in it
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from antiphon.config.errors import ConfigurationError
from antiphon.engine.ends import failure_of
from antiphon.engine.open_request import OpenRequest
from antiphon.scheduler.request import Finished

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

MISSING = "traces need OpenTelemetry: pip install antiphon[otel]"


def otlp_exporter(endpoint: str) -> "SpanExporter":
    """Sends spans to a collector over HTTP. Raises ConfigurationError without the extra."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise ConfigurationError(MISSING) from None
    return OTLPSpanExporter(endpoint=endpoint)


class Traces:
    """Of one server process. `exporter`: where ended spans go, from a thread of its own."""

    def __init__(self, exporter: "SpanExporter") -> None:
        """Raises ConfigurationError without the extra."""
        try:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            raise ConfigurationError(MISSING) from None
        self._provider = TracerProvider(resource=Resource.create({"service.name": "antiphon"}))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("antiphon")

    def close(self) -> None:
        """Sends what has ended."""
        self._provider.shutdown()

    @contextmanager
    def answering(self, scope: Any, status: Callable[[], int]) -> Iterator[None]:
        """The span of one answer over HTTP, or of a WebSocket, whose handshake is a GET. `status`:
        what it was, at the end."""
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        headers = {
            key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]
        }
        method = scope.get("method", "GET")
        with self._tracer.start_as_current_span(
            method,
            context=TraceContextTextMapPropagator().extract(headers),
            kind=SpanKind.SERVER,
            attributes={
                "http.request.method": method, "url.path": scope["path"],
                "url.scheme": scope.get("scheme", "http"),
            },
        ) as span:  # fmt: skip
            yield
            path = getattr(scope.get("route"), "path", None)
            if path is not None:
                span.update_name(f"{method} {path}")
                span.set_attribute("http.route", path)
            span.set_attribute("http.response.status_code", status())
            if status() >= 500:
                span.set_status(Status(StatusCode.ERROR))

    def note_request(
        self, model: str, opened: OpenRequest, future: "asyncio.Future[Finished]"
    ) -> None:
        """A request of an engine has ended, in the context of the call that made it."""
        from opentelemetry.trace import Status, StatusCode, set_span_in_context

        error = failure_of(future)
        finished = None if future.exception() is not None else future.result()
        attributes: dict[str, Any] = {
            "gen_ai.request.model": model,
            "gen_ai.request.id": str(opened.request.id),
        }
        if finished is not None:
            attributes["gen_ai.usage.output_tokens"] = len(finished.token_ids)
        whole = self._tracer.start_span(
            "request", start_time=_nanoseconds(opened.arrived_at), attributes=attributes
        )
        if error is not None:
            whole.set_status(Status(StatusCode.ERROR, error))
            whole.set_attribute("error.type", error)
        if finished is not None:
            self._note_phases(opened, finished, set_span_in_context(whole))
            whole.end(_nanoseconds(finished.metrics.finished_at))
        else:
            whole.end()

    def _note_phases(self, opened: OpenRequest, finished: Finished, parent: Any) -> None:
        times, route = finished.metrics, opened.route
        begin = times.arrived_at
        if times.encoded_at is not None:
            encoder = "" if route is None else route.encoder
            self._span("encode", begin, times.encoded_at, parent, encoder)
            begin = times.encoded_at
        if times.admitted_at is None:
            return
        decoder = "" if route is None else route.decoder
        self._span("queue", begin, times.admitted_at, parent, decoder)
        if times.finished_at is not None:
            first = times.first_token_at
            self._span("decode", times.admitted_at, times.finished_at, parent, decoder, first)

    def _span(
        self,
        name: str,
        begin: float,
        end: float,
        parent: Any,
        worker: str,
        first_token: float | None = None,
    ) -> None:
        """Unix times in seconds."""
        span = self._tracer.start_span(
            name, parent, start_time=_nanoseconds(begin), attributes={"antiphon.worker": worker}
        )
        if first_token is not None:
            span.add_event("first token", timestamp=_nanoseconds(first_token))
        span.end(_nanoseconds(max(begin, end)))


def _nanoseconds(seconds: float | None) -> int | None:
    return None if seconds is None else int(1e9 * seconds)
