"""From answers to figures, under the names that `vllm bench serve` gives them."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from antiphon.benchmarks.report import COLORS, Row
from antiphon.benchmarks.service.exchange import Answer
from antiphon.config.errors import ConfigurationError

MARKS = re.compile(r"[^\w\s']|_")


def figures(answers: Sequence[Answer]) -> Row:
    """Of one load. Times are those of requests that succeeded; a stream's first and following
    texts are known of streams alone. Real time factors (`rtfx`) are of sound alone."""
    good = [answer for answer in answers if answer.error is None]
    duration = max(a.ended for a in answers) - min(a.began for a in answers)
    inputs, outputs = (sum(getattr(a, n) for a in good) for n in ("input_tokens", "output_tokens"))
    row: Row = {
        "duration": duration,
        "completed": len(good),
        "failed": len(answers) - len(good),
        "total_input_tokens": inputs,
        "total_output_tokens": outputs,
        "request_throughput": len(good) / duration,
        "output_throughput": outputs / duration,
        "total_token_throughput": (inputs + outputs) / duration,
    }
    if seconds := sum(answer.ask.seconds for answer in good):
        row |= {"audio_seconds": seconds, "rtfx": seconds / duration}
    row |= _statistics("ttft", (answer.first for answer in good))
    row |= _statistics("tpot", (answer.per_token for answer in good))
    row |= _statistics("itl", (gap for answer in good for gap in answer.gaps))
    row |= _statistics("e2el", (answer.seconds for answer in good))
    if (rate := word_error_rate(good)) is not None:
        row["word_error_rate"] = rate
    return row


def _statistics(name: str, seconds: Iterable[float | None]) -> Row:
    """Mean, median, deviation and 99th percentile in milliseconds; nothing where nothing is
    known."""
    known = 1e3 * np.array([value for value in seconds if value is not None])
    if not len(known):
        return {}
    return {
        f"mean_{name}_ms": float(known.mean()),
        f"median_{name}_ms": float(np.median(known)),
        f"std_{name}_ms": float(known.std()),
        f"p99_{name}_ms": float(np.percentile(known, 99)),
    }


def word_error_rate(answers: Sequence[Answer]) -> float | None:
    """Of all answers with a reference together, without case and punctuation."""
    pairs = [
        (reference, plain(answer.text))
        for answer in answers
        if answer.ask.reference is not None and (reference := plain(answer.ask.reference))
    ]
    if not pairs:
        return None
    try:
        from jiwer import wer
    except ImportError:
        raise ConfigurationError(
            "word error rates need jiwer: pip install antiphon[bench]"
        ) from None
    references, texts = zip(*pairs, strict=True)
    return float(wer(list(references), list(texts)))


def plain(text: str) -> str:
    """Words in lower case, without punctuation."""
    return " ".join(MARKS.sub(" ", text.lower()).split())


def failures(answers: Sequence[Answer]) -> list[tuple[int, str]]:
    """How often each error came, the most frequent first."""
    counts = Counter(answer.error for answer in answers if answer.error is not None)
    return [(count, error) for error, count in counts.most_common()]


def plot_loads(path: Path, title: str, loads: Sequence[tuple[str, Sequence[Answer]]]) -> None:
    """For each load: which share of the requests had ended (and begun to answer) after how long,
    and how many ended in each second of the run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (shares, course) = pyplot.subplots(1, 2, figsize=(11, 4))
    for number, (label, answers) in enumerate(loads):
        color = COLORS[number % len(COLORS)]
        good = [answer for answer in answers if answer.error is None]
        firsts = [answer.first for answer in good if answer.first is not None]
        for values, style, what in (
            ([answer.seconds for answer in good], "-", "whole answer"),
            (firsts, ":", "first text"),
        ):
            if values:
                shares.ecdf(values, color=color, linestyle=style, label=f"{label}, {what}")
        if good:
            start = min(answer.began for answer in answers)
            ends = np.array([answer.ended - start for answer in good])
            counts = np.bincount(ends.astype(int))
            course.step(range(len(counts)), counts, where="post", color=color, label=label)
    shares.set(xlabel="seconds", ylabel="share of requests", xscale="log")
    course.set(xlabel="second of the run", ylabel="requests that ended", ylim=(0, None))
    for axes in (shares, course):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
