"""Whole recordings: cut at quiet places, every window a request of its own, texts and times joined."""

import asyncio
from typing import TYPE_CHECKING

import numpy as np

from antiphon.actors.outputs import CompletionOutput, Segment, Transcription
from antiphon.config.errors import PromptError
from antiphon.config.sampling import SamplingParams
from antiphon.inputs.audio import AudioInput, cut_at_quiet
from antiphon.inputs.processor import EncoderInput, Prepared

if TYPE_CHECKING:
    from antiphon.actors.engine import AsyncEngine

SILENCE = 1e-4  # root mean square of a window that is not worth a request: -80 dB of full scale


Window = tuple[int, int, EncoderInput]  # first sample, the one behind the last, and what lies between


class Transcriber:
    def __init__(self, engine: "AsyncEngine") -> None:
        self.engine = engine
        if engine.inputs.whisper is None or engine.inputs.audio is None:
            raise PromptError(f"{engine.model.architecture} does not transcribe audio: use generate()")
        self.format, self.audio = engine.inputs.whisper, engine.inputs.audio

    async def transcribe(
        self,
        audio: AudioInput,
        language: str | None = None,
        task: str = "transcribe",
        timestamps: bool = True,
        chunk_seconds: float | None = None,
        params: SamplingParams | None = None,
        timeout: float | None = None,
    ) -> Transcription:
        """`language`: None finds it in the first window with sound. `timestamps`: segments as the model marks them,
        else one per window. `chunk_seconds`: longest piece between two cuts; None is the model's window. `timeout`: seconds
        for each window. Raises InputError or RequestError."""
        if chunk_seconds is not None and not 1.0 <= chunk_seconds <= self.audio.window_seconds:
            raise PromptError(
                f"chunk_seconds must be between 1 and the model's window of {self.audio.window_seconds:g}, not {chunk_seconds}"
            )
        self.format.check(language, task)
        params = params or SamplingParams()
        self.engine.inputs.check(params)
        samples: np.ndarray = await self.engine.run_in_thread(self.engine.inputs.load_audio, audio)
        rate = self.audio.sampling_rate
        longest = self.audio.window if chunk_seconds is None else int(chunk_seconds * rate)
        windows: list[Window] = await self.engine.run_in_thread(self._windows, samples, longest)
        if windows and language is None and self.format.multilingual:
            language = await self.detect_language(windows[0][2])
        prompt = self.format.prompt(language, task, timestamps) if windows else []

        async def decode(media: EncoderInput) -> CompletionOutput:
            opened = self.engine.submit(Prepared(media, prompt, params), prompt, timestamps=timestamps, timeout=timeout)
            return await self.engine.result(opened)

        tasks = [asyncio.create_task(decode(media)) for _, _, media in windows]
        try:
            outputs = await asyncio.gather(*tasks)
        except BaseException:
            for each in tasks:  # one window failed: the others are not worth finishing
                each.cancel()
            raise
        segments = [
            segment
            for (start, end, _), output in zip(windows, outputs, strict=True)
            for segment in self._segments(start / rate, end / rate, output, timestamps)
        ]
        text = " ".join(segment.text for segment in segments if segment.text)
        return Transcription(text, language, segments, len(samples) / rate)

    def _windows(self, samples: np.ndarray, longest: int) -> list[Window]:
        """The pieces that are worth a request: those with sound."""
        return [
            (start, end, self.engine.stored(self.engine.inputs.clip(samples[start:end])))
            for start, end in cut_at_quiet(samples, longest, self.audio.sampling_rate)
            if np.sqrt(np.mean(samples[start:end] ** 2)) > SILENCE
        ]

    def _segments(self, start: float, end: float, output: CompletionOutput, timestamps: bool) -> list[Segment]:
        if not timestamps:
            return [Segment(start, end, output.text.strip())]
        return [
            Segment(
                min(start + timed.start, end),
                end if timed.end is None else min(start + timed.end, end),
                self.engine.inputs.decode(timed.token_ids).strip(),
            )
            for timed in self.format.segments(output.token_ids)
        ]

    async def detect_language(self, media: EncoderInput) -> str:
        """The likeliest language token right after the start. The clip's cross KV stays for the transcription."""
        params = SamplingParams(max_tokens=1, allowed_token_ids=tuple(self.format.languages.values()), skip_special_tokens=False)
        start = [self.format.start_id]
        opened = self.engine.submit(Prepared(media, start, params), start, timestamps=False)
        return self.format.language_of((await self.engine.result(opened)).token_ids[0])

    async def default_prompt(self, media: EncoderInput) -> list[int]:
        """For a prompt without tokens: transcribe, in the language that is heard, without timestamps."""
        language = await self.detect_language(media) if self.format.multilingual else None
        return self.format.prompt(language, "transcribe", timestamps=False)
