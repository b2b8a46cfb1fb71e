"""All metrics of a server: names, kinds and meanings. Where vLLM has the same, its name is used,
with `antiphon_` for its `vllm:`.

"Request" is one of the engine: a sample of a prompt, a window of a recording, or the question in
which language a recording is. Times are seconds.
"""

from dataclasses import dataclass
from typing import Literal

PREFIX = "antiphon_"
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
TOKEN_SECONDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
TIMES_REAL_TIME = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)


@dataclass(frozen=True)
class Metric:
    """`name`: without the prefix, and of counters without `_total`."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: tuple[str, ...] = ("model_name",)
    buckets: tuple[float, ...] = ()

    @property
    def series(self) -> tuple[str, ...]:
        """Names under which Prometheus has it."""
        name = f"{PREFIX}{self.name}"
        match self.kind:
            case "counter":
                return (f"{name}_total",)
            case "gauge":
                return (name,)
            case "histogram":
                return f"{name}_bucket", f"{name}_sum", f"{name}_count"


def _counter(name: str, meaning: str, *labels: str) -> Metric:
    return Metric(name, "counter", meaning, ("model_name", *labels))


def _gauge(name: str, meaning: str, *labels: str) -> Metric:
    return Metric(name, "gauge", meaning, ("model_name", *labels))


def _histogram(name: str, meaning: str, buckets: tuple[float, ...] = SECONDS) -> Metric:
    return Metric(name, "histogram", meaning, buckets=buckets)


# Of the server.
HTTP_REQUESTS = Metric("http_requests", "counter", "answers", ("path", "status"))
HTTP_SECONDS = Metric(
    "http_request_duration_seconds", "histogram", "from the first byte of a request to the last "
    "of its answer", ("path",), SECONDS,
)  # fmt: skip
HTTP_OPEN = Metric("http_requests_open", "gauge", "requests that have no answer yet", ())
SESSIONS_OPEN = Metric("realtime_sessions_open", "gauge", "realtime sessions", ())
TURNED_AWAY = Metric(
    "http_requests_turned_away", "counter", "answered with status 429: too many were open", ()
)
AUDIO_SECONDS = _counter("audio_seconds", "sound transcribed")
RTFX = _histogram(
    "transcription_rtfx", "seconds of sound per second, of each recording", TIMES_REAL_TIME
)

# Of each request, once it has ended.
SUCCESS = _counter("request_success", "requests that ended well", "finished_reason")
ERRORS = _counter("request_errors", "requests that failed, by type of error", "error_type")
PROMPT_TOKENS = _counter("prompt_tokens", "tokens of encoders' inputs and of prompts")
GENERATION_TOKENS = _counter("generation_tokens", "generated tokens")
FIRST_TOKEN = _histogram("time_to_first_token_seconds", "from arrival to the first token")
PER_TOKEN = _histogram(
    "request_time_per_output_token_seconds", "mean time between the tokens of a request",
    TOKEN_SECONDS,
)  # fmt: skip
LATENCY = _histogram("e2e_request_latency_seconds", "from arrival to the end")
ENCODE = _histogram(
    "request_encode_time_seconds", "until its inputs were encoded; without those that were cached"
)
QUEUE = _histogram("request_queue_time_seconds", "encoded, and without a place in the batch")
DECODE = _histogram("request_decode_time_seconds", "from the first token to the last")

# Of the workers; read when /metrics is, or every few seconds for Ray.
RUNNING = _gauge("num_requests_running", "requests in decoders' batches")
WAITING = _gauge("num_requests_waiting", "requests that wait for encoders or for a place")
PAGES_IN_USE = _gauge("kv_cache_usage_perc", "share of KV pages that is in use; 1 is all")
PAGES = _gauge("kv_pages", "KV pages: self, cross, cached or free", "kind")
STATE_PAGES_IN_USE = _gauge(
    "hidden_state_cache_usage_perc", "share of pages of hidden states that is in use; 1 is all"
)
STATE_PAGES = _gauge(
    "hidden_state_pages", "pages of hidden states, where cross-attention reads these: used, cached "
    "or free", "kind",
)  # fmt: skip
ENCODER_TOKENS = _gauge("encoder_open_tokens", "tokens that encoders have to encode")
ENGINE = _gauge("engine", "all counters of the workers by name", "counter")
ENCODER_BATCHES = _counter("encoder_batches", "batches of up to `size` inputs", "size")
# By counter of the workers, and how many of its units make one of the metric's.
FROM_WORKERS: dict[str, tuple[Metric, float]] = {
    "encoder_inputs": (_counter("encoder_inputs", "inputs encoded"), 1),
    "encoder_input_tokens": (_counter("encoder_input_tokens", "tokens encoded"), 1),
    "encoder_busy_us": (_counter("encoder_busy_seconds", "time that batches took"), 1e6),
    "encodes": (_counter("encodes", "inputs that decoders asked encoders for"), 1),
    "cross_cache_hits": (_counter("cross_cache_hits", "inputs that needed no encoding"), 1),
    "prefix_cache_queries": (_counter("prefix_cache_queries", "tokens looked up"), 1),
    "prefix_cache_hits": (_counter("prefix_cache_hits", "tokens found"), 1),
    "preemptions": (_counter("num_preemptions", "requests that lost their place"), 1),
    "steps": (_counter("decoder_steps", "steps of decoders"), 1),
    "tokens": (_counter("decoder_tokens", "tokens that decoders have sampled"), 1),
    "drafts": (_counter("spec_decode_num_drafts", "times that a sequence drafted"), 1),
    "draft_tokens": (_counter("spec_decode_num_draft_tokens", "tokens that were drafted"), 1),
    "accepted_draft_tokens": (
        _counter("spec_decode_num_accepted_tokens", "of them, those that held"),
        1,
    ),
}

METRICS = (
    HTTP_REQUESTS, HTTP_SECONDS, HTTP_OPEN, SESSIONS_OPEN, TURNED_AWAY, AUDIO_SECONDS, RTFX,
    SUCCESS, ERRORS, PROMPT_TOKENS, GENERATION_TOKENS,
    FIRST_TOKEN, PER_TOKEN, LATENCY, ENCODE, QUEUE, DECODE,
    RUNNING, WAITING, PAGES_IN_USE, PAGES, STATE_PAGES_IN_USE, STATE_PAGES,
    ENCODER_TOKENS, ENGINE, ENCODER_BATCHES,
    *(metric for metric, _ in FROM_WORKERS.values()),
)  # fmt: skip
