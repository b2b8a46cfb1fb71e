"""A recording's text as it is made: windows run together, and their text comes in order."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from typing import Any

from antiphon.engine.callers import OneCaller, caller_number
from antiphon.engine.deadline import Deadline
from antiphon.engine.open_request import OpenRequest
from antiphon.engine.outputs import Segment, Transcription
from antiphon.engine.transcribing.attempts import Decoded, WindowDecoder
from antiphon.engine.transcribing.segments import Segments, whole
from antiphon.engine.transcribing.transcriber import Transcriber
from antiphon.engine.transcribing.windows import Recording
from antiphon.inputs.audio.forms import AudioInput
from antiphon.inputs.calls.transcription import TranscriptionOptions


class StreamingTranscriber(Transcriber):
    async def stream(
        self, audio: AudioInput, **options: Any
    ) -> AsyncGenerator[str | Transcription, None]:
        """Pieces of text that together are the transcription's, which comes last. Leaving the loop
        early cancels all windows. Options and errors: as `transcribe`.

        Text comes token by token where nothing can take it back: by default the first attempt at
        a window counts. Several temperatures, one window after another, and a language of each
        window let text come window by window.
        """
        checked = self.inputs.check_transcription(**options)
        if options.get("temperature") is None or len(checked.fallback.temperatures) == 1:
            checked = replace(checked, fallback=checked.fallback.once)
        pieces = self._by_token if checked.may_stream else self._by_window
        async with aclosing(pieces(audio, checked)) as stream:
            async for piece in stream:
                yield piece

    async def _by_window(
        self, audio: AudioInput, options: TranscriptionOptions
    ) -> AsyncGenerator[str | Transcription, None]:
        pieces = Pieces()
        async with aclosing(self.segments_of(audio, options)) as stream:
            async for segments in stream:
                if isinstance(segments, Transcription):
                    yield segments
                elif text := pieces.next(self._text(segments)):
                    yield text

    async def _by_token(
        self, audio: AudioInput, options: TranscriptionOptions
    ) -> AsyncGenerator[str | Transcription, None]:
        deadline, caller = Deadline(options.timeout), caller_number()
        async with AsyncExitStack() as scope:
            with OneCaller(caller):
                held = await scope.enter_async_context(self.engine.hold_memory(0))
                async with deadline.limit():
                    recording, spoken = await self._opened(held, audio, options, deadline)
                if options.progress is not None:
                    options.progress(0.0, recording.duration)
                decoder = WindowDecoder(self.engine, options, deadline)
                opened = self._submit(recording, spoken.language, decoder, scope)
            segments, pieces = Segments(self.inputs, options), Pieces()
            for window, request in zip(recording.windows, opened, strict=True):
                assert request.text is not None
                known = len(segments.all)
                # What two windows hear counts once both have.
                is_alone = not (window.shared or window.shares)
                while not request.future.done():
                    async with deadline.limit():
                        await request.updated.wait()
                    request.updated.clear()
                    if is_alone and (text := pieces.next(request.text.take())):
                        yield text
                output = await self.engine.result(request)
                with OneCaller(caller):
                    output = await decoder.with_words(output, window.media, spoken.language)
                    output = await decoder.shareable(output, window, spoken.language)
                temperature = options.fallback.temperatures[0]
                segments.add(window, Decoded.of(output, temperature, spoken.language))
                rest = request.text.take(final=True)
                if text := pieces.next(rest if is_alone else self._text(segments.all[known:])):
                    yield text
            yield await whole(self.engine, segments, recording, spoken)

    def _text(self, segments: list[Segment]) -> str:
        return self.inputs.decode([id_ for segment in segments for id_ in segment.token_ids])

    def _submit(
        self,
        recording: Recording,
        language: str | None,
        decoder: WindowDecoder,
        scope: AsyncExitStack,
    ) -> list[OpenRequest]:
        """One request for each window. They are cancelled when `scope` ends."""
        requests, options = [], decoder.options
        for number, window in enumerate(recording.windows):
            prompt = decoder.prompt(language, options.earlier.initial, is_first=not number)
            temperature = options.fallback.temperatures[0]
            opened = decoder.submit(window.media, prompt, temperature, stream=True)
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
