"""What a server measures, and that all names lead somewhere."""

import asyncio
import io
import json
import logging
import re
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from paths import ROOT
from prometheus_client.parser import text_string_to_metric_families

from antiphon.benchmarks.service.server_times import DRAFT_COUNTERS, HISTOGRAMS
from antiphon.config.errors import RequestExpired
from antiphon.engine.outputs import Transcription
from antiphon.scheduler.request import Finished, RequestMetrics, RequestState
from antiphon.scheduler.router import Route
from antiphon.serve.admission import Admission
from antiphon.serve.logs import handler_of
from antiphon.serve.metric_names import FROM_WORKERS, METRICS, PREFIX
from antiphon.serve.metrics import Metrics
from antiphon.serve.traces import Traces

OPENED: Any = SimpleNamespace(
    request=SimpleNamespace(
        id="frontend-0",
        prompt_token_ids=[1, 2],
        inputs=[SimpleNamespace(num_tokens=1500, position=None)],
    ),
    arrived_at=100.0,
    route=Route("encoder-1", "decoder-2"),
)
TIMES = RequestMetrics(100.0, 100.3, 100.4, 100.5, 101.5)


def ended(times: RequestMetrics = TIMES, state: str = "done", tokens: int = 5) -> Any:
    future = asyncio.get_running_loop().create_future()
    future.set_result(Finished(0, RequestState(state), [7] * tokens, "stop", None, [], times))
    return future


def failed() -> Any:
    future = asyncio.get_running_loop().create_future()
    future.set_exception(RequestExpired("late"))
    return future


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Values by name and labels, in the order of their names; without buckets."""
    return {
        (sample.name.removeprefix(PREFIX), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
        if not sample.name.endswith(("_bucket", "_created"))
    }


def test_times_of_requests() -> None:
    metrics = Metrics(Admission(3))

    async def scenario() -> None:
        metrics.note_request("m", OPENED, ended())
        metrics.note_request("m", OPENED, ended(RequestMetrics(100.0, None, 100.25, 100.5, 100.5)))
        metrics.note_request("m", OPENED, ended(state="expired"))
        metrics.note_request("m", OPENED, failed())

    asyncio.run(scenario())
    values = samples(metrics)
    assert values["request_success_total", "stop", "m"] == 2
    assert values["request_errors_total", "RequestExpired", "m"] == 2
    assert values["prompt_tokens_total", "m"] == 2 * 1502
    assert values["generation_tokens_total", "m"] == 10
    for name, total, count in (
        ("request_encode_time_seconds", 0.3, 1),
        ("request_queue_time_seconds", 0.1 + 0.25, 2),
        ("time_to_first_token_seconds", 0.5 + 0.5, 2),
        ("e2e_request_latency_seconds", 1.5 + 0.5, 2),
        ("request_decode_time_seconds", 1.0, 2),
        ("request_time_per_output_token_seconds", 0.25, 2),
    ):
        assert values[f"{name}_sum", "m"] == pytest.approx(total), name
        assert values[f"{name}_count", "m"] == count, name


def test_recordings_and_answers() -> None:
    metrics = Metrics(Admission(3))
    metrics.note_transcription("m", Transcription("x", "en", [], 30.0), 0.5)
    metrics.note_answer("/v1/completions", 200, 0.25)
    metrics.note_answer(None, 404, 0.001)
    values = samples(metrics)
    assert values["audio_seconds_total", "m"] == 30
    assert values["transcription_rtfx_sum", "m"] == 60
    assert values["http_requests_total", "/v1/completions", "200"] == 1
    assert values["http_requests_total", "other", "404"] == 1
    assert values["http_request_duration_seconds_sum", "/v1/completions"] == 0.25


def test_counters_of_workers_only_grow() -> None:
    metrics, admission = Metrics(admission := Admission(3)), admission
    admission.turned_away = 2
    load = {"open": 5, "running": 3, "kv_pages": 100, "kv_pages_available": 75}
    load |= {"kv_pages_self": 10, "kv_pages_cross": 15, "kv_pages_cached": 50, "kv_pages_free": 25}
    batches = {"encoder_batches_of_4": 6, "encoder_busy_us": 2_500_000}
    metrics.note_workers({"m": {**load, **batches, "steps": 40}, "other": {}})
    metrics.note_workers({"m": {**load, **batches, "steps": 10}})  # one has died
    metrics.note_workers({"m": {**load, **batches, "steps": 15}})
    values = samples(metrics)
    assert values["num_requests_running", "m"] == 3
    assert values["num_requests_waiting", "m"] == 2
    assert values["kv_cache_usage_perc", "m"] == 0.25
    assert values["kv_pages", "cross", "m"] == 15
    assert values["decoder_steps_total", "m"] == 45
    assert values["encoder_batches_total", "m", "4"] == 6
    assert values["encoder_busy_seconds_total", "m"] == 2.5
    assert values["engine", "steps", "m"] == 15
    assert values["http_requests_turned_away_total",] == 2
    assert ("num_requests_running", "other") not in values


def test_pages_of_hidden_states_are_told_where_there_are_some() -> None:
    metrics = Metrics(Admission(3))
    pages = {"": 40, "_available": 30, "_used": 10, "_cached": 5, "_free": 25}
    states = {f"hidden_state_pages{kind}": count for kind, count in pages.items()}
    metrics.note_workers({"latent": {"open": 1, **states}, "plain": {"open": 1, "kv_pages": 9}})
    values = samples(metrics)
    assert values["hidden_state_cache_usage_perc", "latent"] == 0.25
    kinds = ("used", "cached", "free")
    assert [values["hidden_state_pages", kind, "latent"] for kind in kinds] == [10, 5, 25]
    assert not [name for name in values if "hidden_state" in name[0] and "plain" in name]


def test_no_name_is_there_twice() -> None:
    series = [name for metric in METRICS for name in metric.series]
    assert len(set(series)) == len(series)


def test_the_dashboard_shows_what_there_is() -> None:
    series = {name for metric in METRICS for name in metric.series}
    dashboard = json.loads((ROOT / "serve" / "dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    shown = {name for query in queries for name in re.findall(r"ray_(antiphon_\w+)", query)}
    assert len(queries) >= 10
    assert shown - series == set()
    identifiers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(identifiers)) == len(identifiers)


def test_what_the_benchmark_reads_is_there() -> None:
    series = {f"{PREFIX}{metric.name}" for metric in METRICS if metric.kind == "histogram"}
    for sources in HISTOGRAMS.values():
        assert sources[0] in series
    drafts = {name: FROM_WORKERS[name][0].name for name in DRAFT_COUNTERS}
    assert drafts == DRAFT_COUNTERS
    assert all(metric.kind == "counter" for metric, _ in FROM_WORKERS.values())


def test_a_trace_of_one_request() -> None:
    exporter = InMemorySpanExporter()
    traces = Traces(exporter)
    trace = "0af7651916cd43dd8448eb211c80319c"
    parent = f"00-{trace}-b7ad6b7169203331-01".encode()
    scope = {
        "method": "POST", "path": "/v1/completions", "headers": [(b"traceparent", parent)],
        "route": SimpleNamespace(path="/v1/completions"),
    }  # fmt: skip

    async def scenario() -> None:
        with traces.answering(scope, lambda: 503):
            traces.note_request("m", OPENED, ended())
            traces.note_request("m", OPENED, failed())

    asyncio.run(scenario())
    traces.close()
    spans = exporter.get_finished_spans()
    assert {format(span.context.trace_id, "032x") for span in spans} == {trace}
    encode, queue, decode, request, lost, answer = spans
    assert [span.name for span in spans] == [
        "encode", "queue", "decode", "request", "request", "POST /v1/completions",
    ]  # fmt: skip
    for phase in (encode, queue, decode):
        assert phase.parent.span_id == request.context.span_id
    assert request.parent.span_id == lost.parent.span_id == answer.context.span_id
    seconds = [(span.end_time - span.start_time) / 1e9 for span in spans[:4]]
    assert seconds == pytest.approx([0.3, 0.1, 1.1, 1.5])
    assert decode.events[0].timestamp == 100_500_000_000
    assert encode.attributes["antiphon.worker"] == "encoder-1"
    assert decode.attributes["antiphon.worker"] == "decoder-2"
    assert request.attributes["gen_ai.usage.output_tokens"] == 5
    assert lost.attributes["error.type"] == "RequestExpired"
    assert answer.attributes["http.response.status_code"] == 503
    assert not answer.status.is_ok


def test_json_lines_of_the_log() -> None:
    stream = io.StringIO()
    handler = handler_of(stream, "json")
    logger = logging.getLogger("antiphon.serve.test_json")
    logger.addHandler(handler)
    try:
        logger.warning("two\nlines of %s", "ü")
    finally:
        logger.removeHandler(handler)
    entry = json.loads(stream.getvalue())
    assert (entry["level"], entry["message"]) == ("WARNING", "two\nlines of ü")
    assert entry["request_id"] == "-"
    assert stream.getvalue().count("\n") == 1
