"""A recording's text as it is made: windows run together, and their text comes in order."""

from collections.abc import AsyncGenerator
from contextlib import ExitStack
from typing import Any

from antiphon.engine.callers import one_caller
from antiphon.engine.deadline import Deadline
from antiphon.engine.open_request import OpenRequest
from antiphon.engine.outputs import Transcription
from antiphon.engine.transcribing.attempts import Decoded, compression_ratio
from antiphon.engine.transcribing.segments import Segments
from antiphon.engine.transcribing.transcriber import Transcriber
from antiphon.engine.transcribing.windows import Recording
from antiphon.inputs.audio.forms import AudioInput, expected_bytes
from antiphon.inputs.calls.transcription import TranscriptionOptions
from antiphon.inputs.prepared import Prepared


class StreamingTranscriber(Transcriber):
    async def stream(
        self, audio: AudioInput, **options: Any
    ) -> AsyncGenerator[str | Transcription, None]:
        """Pieces of text that together are the transcription's, which comes last. Leaving the loop
        early cancels all windows. Options and errors: as `transcribe`."""
        checked = self.inputs.check_transcription(**options)
        deadline, rate = Deadline(checked.timeout), self.audio.sampling_rate
        async with self.engine.hold_memory(expected_bytes(audio, rate)) as held:
            async with deadline.limit():
                recording = await self.engine.run_in_thread(
                    self.reader.read, audio, checked.longest
                )
                held.set(recording.num_bytes)
                if checked.progress is not None:
                    checked.progress(0.0, recording.duration)
                spoken = await self._spoken(recording, checked, deadline)
            segments = Segments(self.inputs, checked)
            pieces = Pieces()
            with ExitStack() as scope:
                opened = self._submit(recording, spoken.language, checked, deadline, scope)
                for window, request in zip(recording.windows, opened, strict=True):
                    assert request.text is not None
                    while not request.future.done():
                        async with deadline.limit():
                            await request.updated.wait()
                        request.updated.clear()
                        if text := pieces.next(request.text.take()):
                            yield text
                    output = await self.engine.result(request)
                    decoded = Decoded(
                        output,
                        checked.params.temperature,
                        compression_ratio(output.text.strip()),
                        spoken.language,
                    )
                    segments.add(window, decoded)
                    if text := pieces.next(request.text.take(final=True)):
                        yield text
            yield await self.engine.run_in_thread(segments.transcription, recording, spoken)

    def _submit(
        self,
        recording: Recording,
        language: str | None,
        options: TranscriptionOptions,
        deadline: Deadline,
        scope: ExitStack,
    ) -> list[OpenRequest]:
        """One request for each window. They are cancelled when `scope` ends."""
        prompt = self.format.prompt(language, options.task, options.timestamps)
        requests = []
        with one_caller():
            for window in recording.windows:
                opened = self.engine.submit(
                    Prepared((window.media,), prompt, options.params),
                    prompt,
                    timestamps=options.timestamps,
                    stream=True,
                    priority=options.priority,
                    timeout=deadline.seconds_left,
                )
                scope.callback(self.engine.cancel, opened)
                requests.append(opened)
        return requests


class Pieces:
    """Text without the blanks at its very ends."""

    def __init__(self) -> None:
        self._blanks, self._begun = "", False

    def next(self, text: str) -> str:
        """What may be shown of it now: blanks wait for what follows them."""
        text = self._blanks + text if self._begun else text.lstrip()
        shown = text.rstrip()
        self._blanks = text[len(shown) :]
        self._begun = self._begun or bool(shown)
        return shown
