"""Transcription of whole recordings: each window is a request; texts and times are joined."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from antiphon.config.errors import AudioError, PromptError
from antiphon.engine.budget import Hold
from antiphon.engine.callers import OneCaller
from antiphon.engine.deadline import Deadline
from antiphon.engine.outputs import Segment, Transcription
from antiphon.engine.progress import SecondsDone
from antiphon.engine.transcribing.attempts import Decoded, WindowDecoder
from antiphon.engine.transcribing.batched import decode_together
from antiphon.engine.transcribing.languages import LanguageDetector, Spoken
from antiphon.engine.transcribing.request_engine import RequestEngine
from antiphon.engine.transcribing.segments import Segments, whole
from antiphon.engine.transcribing.sequential import SequentialDecoder
from antiphon.engine.transcribing.windows import Recording, Window, WindowReader
from antiphon.inputs.audio.forms import AudioInput, expected_bytes
from antiphon.inputs.calls.options import checked_priority
from antiphon.inputs.calls.transcription import TranscriptionOptions
from antiphon.inputs.prepared import EncoderInput


class Transcriber:
    """Turns recordings into requests of `engine`, and their outputs into a transcription."""

    def __init__(self, engine: RequestEngine) -> None:
        """Raises PromptError if the engine's model does not take audio."""
        self.engine, self.inputs = engine, engine.inputs
        if self.inputs.whisper is None or self.inputs.audio is None:
            architecture = self.inputs.model.architecture
            raise PromptError(f"{architecture} does not transcribe audio: use generate()")
        self.format, self.audio = self.inputs.whisper, self.inputs.audio
        self.reader = WindowReader(self.inputs)

    async def transcribe(self, audio: AudioInput, **options: Any) -> Transcription:
        """A recording of any length. Options: `Keywords`, and docs/transcription.md.

        Raises ConfigurationError for an unknown keyword, InputError before anything runs,
        AudioError, or RequestError.
        """
        return await self._transcribe(audio, self.inputs.check_transcription(**options))

    async def segments(
        self, audio: AudioInput, **options: Any
    ) -> AsyncGenerator[list[Segment] | Transcription, None]:
        """The segments of each window as soon as they are certain, in their order; the whole comes
        last. Leaving the loop early cancels the rest. Options and errors: as `transcribe`."""
        checked = self.inputs.check_transcription(**options)
        async with aclosing(self.segments_of(audio, checked)) as stream:
            async for segments in stream:
                yield segments

    async def segments_of(
        self, audio: AudioInput, options: TranscriptionOptions
    ) -> AsyncGenerator[list[Segment] | Transcription, None]:
        """As `segments`, with checked options."""
        ready: asyncio.Queue[list[Segment] | None] = asyncio.Queue()
        task = asyncio.create_task(self._transcribe(audio, options, ready.put_nowait))
        task.add_done_callback(lambda _: ready.put_nowait(None))
        try:
            while (segments := await ready.get()) is not None:
                yield segments
            yield await task
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def detect_languages(
        self,
        audio: AudioInput,
        *,
        priority: int = 0,
        timeout: float | None = None,
    ) -> dict[str, float]:
        """The probability of each of the checkpoint's languages in the first window with sound,
        likeliest first; they add up to 1. Raises AudioError for digital silence."""
        priority, deadline = checked_priority(priority), Deadline(timeout)
        async with (
            deadline.limit(),
            self.engine.hold_memory(await self._expected_bytes(audio)),
        ):
            first = await self.engine.run_in_thread(self.reader.first, audio)
            if first is None:
                raise AudioError("no language to detect: the recording is digital silence")
            return await LanguageDetector(self.engine, priority, deadline).probabilities(
                first.media
            )

    async def default_prompt(
        self, media: EncoderInput, priority: int, deadline: Deadline
    ) -> list[int]:
        """For a prompt without tokens: transcribe without timestamps, in the language detected."""
        language = None
        if self.format.multilingual:
            language = await LanguageDetector(self.engine, priority, deadline).language(media)
        return self.format.prompt(language, "transcribe", timestamps=False)

    async def _transcribe(
        self,
        audio: AudioInput,
        options: TranscriptionOptions,
        on_segments: Callable[[list[Segment]], object] = lambda segments: None,
    ) -> Transcription:
        deadline = Deadline(options.timeout)
        with OneCaller():
            async with self.engine.hold_memory(0) as held, deadline.limit():
                recording, spoken = await self._opened(held, audio, options, deadline)
                segments = Segments(self.inputs, options, on_segments)
                if options.in_turn:
                    recording = await self._decode_in_turn(recording, spoken, segments, deadline)
                else:
                    await self._decode_together(recording, spoken, segments, deadline)
                return await whole(self.engine, segments, recording, spoken)

    async def _opened(
        self, held: Hold, audio: AudioInput, options: TranscriptionOptions, deadline: Deadline
    ) -> tuple[Recording, Spoken]:
        """A recording, whose memory `held` holds, and its language."""
        await held.resize(await self._expected_bytes(audio))
        recording = await self.engine.run_in_thread(self.reader.read, audio, options)
        await held.resize(recording.num_bytes)
        return recording, await self._spoken(recording, options, deadline)

    async def _expected_bytes(self, audio: AudioInput) -> int:
        """In a thread for an open file that does not say: one that is compressed is read to its
        end to measure it."""
        if not hasattr(audio, "read") or hasattr(audio, "nbytes"):
            return expected_bytes(audio, self.audio.sampling_rate)
        return await self.engine.run_in_thread(expected_bytes, audio, self.audio.sampling_rate)

    async def _decode_together(
        self, recording: Recording, spoken: Spoken, segments: Segments, deadline: Deadline
    ) -> None:
        options, first = segments.options, recording.windows[:1]
        decoder = WindowDecoder(self.engine, options, deadline)
        done = SecondsDone(recording, options.progress)

        async def decode(window: Window) -> Decoded:
            language = await self._language(window, spoken, options, deadline)
            is_first = window is first[0]
            decoded = await decoder.decode(
                window.media, language, options.earlier.initial, is_first
            )
            done.add(window.seconds)
            timed = await decoder.shareable(decoded.output, window, language)
            return decoded.with_output(timed)

        await decode_together(recording.windows, decode, segments.add)

    async def _decode_in_turn(
        self, recording: Recording, spoken: Spoken, segments: Segments, deadline: Deadline
    ) -> Recording:
        """`recording`, which now knows its windows of digital silence."""
        options = segments.options
        decoder = WindowDecoder(self.engine, options, deadline)
        done = SecondsDone(recording, options.progress)

        async def decode(window: Window, previous: list[int], is_first: bool) -> Decoded:
            language = await self._language(window, spoken, options, deadline)
            return await decoder.decode(window.media, language, previous, is_first)

        in_turn = SequentialDecoder(
            self.format,
            segments,
            lambda passage: self.engine.run_in_thread(self.reader.window, passage),
            decode,
        )
        for passage in recording.passages:
            await in_turn.run(passage, self.audio.sampling_rate, done.add)
        return recording.with_silence(in_turn.silent)

    async def _language(
        self, window: Window, spoken: Spoken, options: TranscriptionOptions, deadline: Deadline
    ) -> str | None:
        """That of one window."""
        if not options.detection.each_window:
            return spoken.language
        return await LanguageDetector(self.engine, options.priority, deadline).language(
            window.media
        )

    async def _spoken(
        self, recording: Recording, options: TranscriptionOptions, deadline: Deadline
    ) -> Spoken:
        """The recording's language, as it was given or as its first windows have it."""
        if options.language is not None:
            return Spoken(options.language)
        detection = options.detection
        windows = await self.engine.run_in_thread(
            self.reader.first_of, recording, options.longest, detection.windows
        )
        if not windows:
            return Spoken(None)
        detector = LanguageDetector(self.engine, options.priority, deadline)
        return await detector.of_windows([w.media for w in windows], detection.threshold)
