"""Transcription of whole recordings: each window is a request; texts and times are joined."""

from typing import Any

from antiphon.config.errors import AudioError, PromptError
from antiphon.engine.callers import one_caller
from antiphon.engine.deadline import Deadline
from antiphon.engine.outputs import Transcription
from antiphon.engine.progress import SecondsDone
from antiphon.engine.transcribing.attempts import Decoded, WindowDecoder
from antiphon.engine.transcribing.batched import decode_together
from antiphon.engine.transcribing.languages import LanguageDetector, Spoken
from antiphon.engine.transcribing.request_engine import RequestEngine
from antiphon.engine.transcribing.segments import Segments
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
        checked = self.inputs.check_transcription(**options)
        deadline = Deadline(checked.timeout)
        with one_caller():
            async with deadline.limit():
                return await self._transcribe(audio, checked, deadline)

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
            self.engine.hold_memory(expected_bytes(audio, self.audio.sampling_rate)),
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
        self, audio: AudioInput, options: TranscriptionOptions, deadline: Deadline
    ) -> Transcription:
        async with self.engine.hold_memory(expected_bytes(audio, self.audio.sampling_rate)) as held:
            recording = await self.engine.run_in_thread(self.reader.read, audio, options.longest)
            held.set(recording.num_bytes)
            spoken = await self._spoken(recording, options, deadline)
            segments = Segments(self.inputs, options)
            decoder = WindowDecoder(self.engine, options, deadline)
            done = SecondsDone(recording, options.progress)

            async def decode(window: Window) -> Decoded:
                decoded = await decoder.decode(window.media, spoken.language)
                done.add(window.end - window.start)
                return decoded

            await decode_together(recording.windows, decode, segments.add)
            return await self.engine.run_in_thread(segments.transcription, recording, spoken)

    async def _spoken(
        self, recording: Recording, options: TranscriptionOptions, deadline: Deadline
    ) -> Spoken:
        if options.language is not None or not recording.windows:
            return Spoken(options.language)
        detector = LanguageDetector(self.engine, options.priority, deadline)
        probabilities = await detector.probabilities(recording.windows[0].media)
        return Spoken(next(iter(probabilities)), probabilities)
