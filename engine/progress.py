"""Progress of many recordings as one: how many seconds of sound are done, and are known of."""

from collections.abc import Iterator
from contextlib import contextmanager

from antiphon.inputs.calls.transcription import Progress


class TogetherDone:
    """Sums over the recordings of one call, all in the engine's event loop."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.done = self.in_all = 0.0  # seconds

    @contextmanager
    def one_more(self) -> Iterator[Progress]:
        """The progress of one recording. Where it fails, the rest of it counts as done."""
        done = in_all = 0.0

        def update(done_now: float, in_all_now: float) -> None:
            nonlocal done, in_all
            self.done += done_now - done
            self.in_all += in_all_now - in_all
            done, in_all = done_now, in_all_now
            self.progress(self.done, self.in_all)

        try:
            yield update
        finally:
            if done < in_all:
                update(in_all, in_all)
