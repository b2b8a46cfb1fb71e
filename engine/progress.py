"""Progress of transcriptions, in seconds of audio: of one recording, and of many as one."""

from collections.abc import Iterator
from contextlib import contextmanager

from antiphon.engine.transcribing.windows import Recording
from antiphon.inputs.calls.transcription import Progress

ROUNDING = 1e-6  # seconds, in sums of windows' lengths


class SecondsDone:
    """Reports to `progress` how much of a recording is done: at first what is in no window."""

    def __init__(self, recording: Recording, progress: Progress | None) -> None:
        self.progress, self.duration = progress, recording.duration
        self.left = recording.heard
        self.add(0.0)

    def add(self, seconds: float) -> None:
        self.left = max(0.0, self.left - seconds)
        if self.progress is not None:
            left = 0.0 if self.left < ROUNDING else self.left
            self.progress(max(0.0, self.duration - left), self.duration)


class TogetherDone:
    """Reports sums over the recordings of one call. Use it in one event loop."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.done = self.in_all = 0.0  # seconds

    @contextmanager
    def one_more(self) -> Iterator[Progress]:
        """The progress of one more recording. If it fails, the rest of it counts as done."""
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
