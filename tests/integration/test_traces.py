"""Traces of a running server, as an OpenTelemetry collector gets them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
from http_server import running_server
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@contextmanager
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """Its address, and what it has got."""
    messages: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["content-length"]))
            messages.append(ExportTraceServiceRequest.FromString(content))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", messages
        server.shutdown()
        thread.join()


def test_a_request_is_one_trace_from_the_frontend_to_the_decoder(t5_folder: Path) -> None:
    with collector() as (endpoint, messages):
        with running_server({"numbers": str(t5_folder)}, otlp_traces_endpoint=endpoint) as running:
            body = {"prompt": ["in words: 7", "in words: 8"]}
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            reply = httpx.post(f"{running.url}/v1/completions", json=body, headers=headers)
            assert reply.status_code == 200
        spans = [
            span
            for message in messages
            for resource in message.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
            if span.trace_id.hex() == TRACE
        ]
    (answer,) = [span for span in spans if span.name == "POST /v1/completions"]
    assert answer.parent_span_id.hex() == PARENT
    requests = [span for span in spans if span.name == "request"]
    assert len(requests) == 2
    for request in requests:
        assert request.parent_span_id == answer.span_id
        phases = [span for span in spans if span.parent_span_id == request.span_id]
        assert [span.name for span in phases] == ["encode", "queue", "decode"]
        times = [
            time for span in phases for time in (span.start_time_unix_nano, span.end_time_unix_nano)
        ]
        assert times == sorted(times)
        workers = [attribute.value.string_value for span in phases for attribute in span.attributes]
        assert workers == ["encoder-0", "decoder-0", "decoder-0"]
