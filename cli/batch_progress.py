"""What `antiphon batch` says while it works, and at its end."""

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from antiphon import __version__

if TYPE_CHECKING:
    from antiphon.jobs.meter import Meter
    from antiphon.jobs.output import Counts

logger = logging.getLogger(__name__)

BAR_SECONDS, LINE_SECONDS = 0.5, 10.0  # between two pictures of the bar, two lines of a log


@contextmanager
def shown_progress(meter: "Meter", quiet: bool) -> Iterator[None]:
    """A bar on a terminal, a line now and then elsewhere, nothing if `quiet`."""
    if quiet:
        yield
        return
    ended = threading.Event()
    show = _bar if sys.stderr.isatty() else _log
    thread = threading.Thread(target=show, args=(meter, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _log(meter: "Meter", ended: threading.Event) -> None:
    while not ended.wait(LINE_SECONDS):
        logger.info("%s", meter.sentence())


def _bar(meter: "Meter", ended: threading.Event) -> None:
    from tqdm import tqdm

    bar: Any = tqdm(total=meter.total, initial=meter.done, unit="line", file=sys.stderr)
    while not ended.wait(BAR_SECONDS):
        bar.set_postfix_str(meter.remarks(), refresh=False)
        bar.update(meter.done - bar.n)
    bar.update(meter.done - bar.n)
    bar.close()


def summary_of(
    manifest: str, model: str, lines: int, counts: "Counts", meter: "Meter | None"
) -> dict[str, Any]:
    """The content of summary.json: of all runs, and of this one if it had lines to do."""
    summary: dict[str, Any] = {
        "manifest": manifest,
        "model": model,
        "lines": lines,
        "succeeded": counts.succeeded,
        "failed": counts.failed,
        "audio_seconds": round(counts.audio_seconds, 3),
        "antiphon": __version__,
    }
    if meter is not None:
        seconds, done = meter.seconds, meter.done - meter.at_start
        summary["last_run"] = {
            "lines": done,
            "seconds": round(seconds, 3),
            "lines_per_second": round(done / seconds, 3),
            "audio_seconds": round(meter.audio_seconds, 3),
            "times_real_time": round(meter.audio_seconds / seconds, 3),
        }
    return summary


def in_a_sentence(summary: dict[str, Any]) -> str:
    parts = [f"all {summary['lines']:,} lines are done"]
    if summary["audio_seconds"]:
        parts.append(f"{summary['audio_seconds']:,.0f} s of sound")
    if run := summary.get("last_run"):
        rate = f"{run['lines_per_second']:,.1f} lines/s"
        if run["audio_seconds"]:
            rate += f", {run['times_real_time']:,.1f}x real time"
        parts.append(f"{run['lines']:,} of them now, in {run['seconds']:,.1f} s ({rate})")
    return "; ".join(parts)
