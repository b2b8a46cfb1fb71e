"""What a server measured itself, times and drafts, from its page of metrics before and after a
load."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from antiphon.benchmarks.acceptance import acceptance

# What is reported, and the histograms that have it, ours and vLLM's.
HISTOGRAMS: Mapping[str, tuple[str, ...]] = {
    "queue": ("antiphon_request_queue_time_seconds", "vllm:request_queue_time_seconds"),
    "encoder": ("antiphon_request_encode_time_seconds",),
}

# Counters of speculative decoding, by the name that an engine has for them; with either prefix.
DRAFT_COUNTERS = {
    "drafts": "spec_decode_num_drafts",
    "draft_tokens": "spec_decode_num_draft_tokens",
    "accepted_draft_tokens": "spec_decode_num_accepted_tokens",
}
PREFIXES = ("antiphon_", "vllm:")


@dataclass(frozen=True)
class Histogram:
    """`buckets`: observations up to each bound, in seconds, in its order; the last is infinite."""

    count: float
    total: float
    buckets: Mapping[float, float]

    def since(self, before: "Histogram | None") -> "Histogram":
        if before is None:
            return self
        return Histogram(
            self.count - before.count,
            self.total - before.total,
            {bound: n - before.buckets.get(bound, 0) for bound, n in self.buckets.items()},
        )

    def quantile(self, share: float) -> float:
        """As Prometheus' histogram_quantile: even within a bucket."""
        target, low, passed = share * self.count, 0.0, 0.0
        for bound, count in self.buckets.items():
            if count >= target and count > passed:
                if math.isinf(bound):
                    return low
                return low + (bound - low) * (target - passed) / (count - passed)
            low, passed = bound, count
        return low


def read(text: str) -> dict[str, Histogram]:
    """The histograms of a page, by what is reported; those of all models together."""
    families = {family.name: family.samples for family in text_string_to_metric_families(text)}
    result = {}
    for name, sources in HISTOGRAMS.items():
        for source in sources:
            if source in families:
                result[name] = _histogram(source, families[source])
                break
    return result


def drafts_of(text: str) -> dict[str, int]:
    """The counters of DRAFT_COUNTERS that a page has, those of all models together."""
    families = {family.name: family.samples for family in text_string_to_metric_families(text)}
    result: dict[str, int] = {}
    for name, counter in DRAFT_COUNTERS.items():
        for samples in (families.get(prefix + counter, ()) for prefix in PREFIXES):
            values = [sample.value for sample in samples if sample.name.endswith("_total")]
            result[name] = result.get(name, 0) + int(sum(values))
    return result


def _histogram(name: str, samples: list) -> Histogram:
    count = total = 0.0
    buckets: dict[float, float] = {}
    for sample in samples:
        if sample.name == f"{name}_bucket":
            bound = float(sample.labels["le"])
            buckets[bound] = buckets.get(bound, 0.0) + sample.value
        elif sample.name == f"{name}_sum":
            total += sample.value
        elif sample.name == f"{name}_count":
            count += sample.value
    return Histogram(count, total, dict(sorted(buckets.items())))


def between(before: str | None, after: str | None) -> Iterator[tuple[str, float]]:
    """Fields of a report: milliseconds of the requests between two pages, and how far drafts
    held."""
    if after is None:
        return
    earlier = {} if before is None else read(before)
    for name, histogram in read(after).items():
        passed = histogram.since(earlier.get(name))
        if passed.count:
            yield f"mean_{name}_ms", 1e3 * passed.total / passed.count
            yield f"median_{name}_ms", 1e3 * passed.quantile(0.5)
            yield f"p99_{name}_ms", 1e3 * passed.quantile(0.99)
    yield from acceptance({} if before is None else drafts_of(before), drafts_of(after)).items()
