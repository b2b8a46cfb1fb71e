"""The engine as faster-whisper's classes use it: one process, segments as they come."""

from collections.abc import Iterator
from typing import Any

from antiphon.engine.outputs import Segment
from antiphon.engine.sync_engine import Engine
from antiphon.inputs.whisper.format import WhisperFormat


class SpeechEngine(Engine):
    """An engine of a Whisper checkpoint."""

    @property
    def format(self) -> WhisperFormat:
        assert self._async.inputs.whisper is not None  # or `check` had refused the model
        return self._async.inputs.whisper

    @property
    def window(self) -> int:
        """Samples of the model's window."""
        assert self._async.inputs.audio is not None
        return self._async.inputs.audio.window

    def check(self, **options: Any) -> None:
        """Raises for options that transcribe() would refuse."""
        self._async.inputs.check_transcription(**options)

    def text_of(self, segment: Segment) -> str:
        """With the blanks that the tokens have."""
        return self._async.inputs.decode(segment.token_ids)

    def segments(self, samples: Any, **options: Any) -> Iterator[Segment]:
        """Those of a recording, in their order, as soon as each is certain."""
        for part in self.stream_segments(samples, **options):
            if isinstance(part, Segment):  # the whole comes last
                yield part
