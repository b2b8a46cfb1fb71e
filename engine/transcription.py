"""Whole recordings: cut at quiet places, every window a request of its own, texts and times joined."""

import asyncio
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from antiphon.config.errors import AudioError, PromptError
from antiphon.config.sampling import SamplingParams
from antiphon.engine.deadline import Deadline
from antiphon.engine.outputs import CompletionOutput, Segment, Transcription
from antiphon.inputs.audio.cuts import cut_at_quiet, is_digital_silence
from antiphon.inputs.audio.forms import AudioInput, expected_bytes
from antiphon.inputs.audio.sound import Skipped, Sound, merged
from antiphon.inputs.calls.options import checked_priority
from antiphon.inputs.calls.transcription import Progress, TranscriptionOptions
from antiphon.inputs.prepared import EncoderInput, Prepared
from antiphon.inputs.whisper.format import TimedTokens

if TYPE_CHECKING:
    from antiphon.engine.async_engine import AsyncEngine


ROUNDING = 1e-6  # seconds, in sums of windows' lengths


@dataclass(frozen=True)
class Window:
    """A piece of a recording that is one request. In seconds from the recording's start."""

    start: float
    end: float
    media: EncoderInput


@dataclass(frozen=True)
class Recording:
    """What is kept of a recording while its windows run: not its samples, which the windows have."""

    windows: list[Window]
    skipped: list[Skipped]
    duration: float  # seconds
    num_bytes: int = 0  # of its samples


class SecondsDone:
    """Tells `progress` how much of a recording is done: at first what needs no window."""

    def __init__(self, recording: Recording, progress: Progress | None) -> None:
        self.progress, self.duration = progress, recording.duration
        self.left = sum(window.end - window.start for window in recording.windows)
        self.add(0.0)

    def add(self, seconds: float) -> None:
        self.left = max(0.0, self.left - seconds)
        if self.progress is not None:
            left = 0.0 if self.left < ROUNDING else self.left
            self.progress(max(0.0, self.duration - left), self.duration)


class Transcriber:
    """Raises PromptError for an engine whose model does not listen."""

    def __init__(self, engine: "AsyncEngine") -> None:
        self.engine, self.inputs = engine, engine.inputs
        if self.inputs.whisper is None or self.inputs.audio is None:
            raise PromptError(
                f"{engine.model.architecture} does not transcribe audio: use generate()"
            )
        self.format, self.audio = self.inputs.whisper, self.inputs.audio

    async def transcribe(
        self,
        audio: AudioInput,
        *,
        language: str | None = None,
        task: str | None = None,
        timestamps: bool = True,
        chunk_seconds: float | None = None,
        params: SamplingParams | None = None,
        priority: int = 0,
        timeout: float | None = None,
        progress: Progress | None = None,
        **unknown: Any,
    ) -> Transcription:
        """A recording of any length.

        `language`: code or name; None finds it in the first window with sound. `task`: 'transcribe',
        or 'translate' into English. `timestamps`: segments as the model marks them, else one per
        window. `chunk_seconds`: longest piece between two cuts; None is the model's window.
        `params`: n is 1; `logprobs` come with the segments. `priority`: lower runs first.
        `timeout`: seconds for the whole call: reading, language detection and all windows.
        `progress`: called in the engine's event loop with the seconds of sound done and those in
        all, when the recording has been read and after each window; what it raises ends the call.

        Raises ConfigurationError for an unknown keyword, InputError before anything runs, AudioError,
        or RequestError.
        """
        options = self.inputs.check_transcription(
            language=language,
            task=task,
            timestamps=timestamps,
            chunk_seconds=chunk_seconds,
            params=params,
            priority=priority,
            timeout=timeout,
            progress=progress,
            **unknown,
        )
        deadline = Deadline(options.timeout)
        async with deadline.limit():
            return await self._transcribe(audio, options, deadline)

    async def detect_languages(
        self,
        audio: AudioInput,
        *,
        priority: int = 0,
        timeout: float | None = None,
    ) -> dict[str, float]:
        """The probability of each of the checkpoint's languages in the first window with sound,
        likeliest first; they add up to 1. Raises AudioError where nothing is to be heard."""
        priority, deadline = checked_priority(priority), Deadline(timeout)
        async with (
            deadline.limit(),
            self.engine.memory.hold(expected_bytes(audio, self.audio.sampling_rate)),
        ):
            first = await self.engine.run_in_thread(self._first_window, audio)
            if first is None:
                raise AudioError("no language to detect: the recording is digital silence")
            return await self._languages(first.media, priority, deadline)

    async def default_prompt(
        self, media: EncoderInput, priority: int, deadline: Deadline
    ) -> list[int]:
        """For a prompt without tokens: transcribe, in the language that is heard, without timestamps."""
        language = None
        if self.format.multilingual:
            language = next(iter(await self._languages(media, priority, deadline)))
        return self.format.prompt(language, "transcribe", timestamps=False)

    async def _transcribe(
        self, audio: AudioInput, options: TranscriptionOptions, deadline: Deadline
    ) -> Transcription:
        async with self.engine.memory.hold(expected_bytes(audio, self.audio.sampling_rate)) as held:
            recording = await self.engine.run_in_thread(self._read, audio, options.longest)
            held.set(recording.num_bytes)
            language, probability = options.language, None
            if recording.windows and language is None:
                first = recording.windows[0].media
                languages = await self._languages(first, options.priority, deadline)
                language, probability = next(iter(languages.items()))
            outputs = await self._decode(recording, language, options, deadline)
            return await self.engine.run_in_thread(
                self._joined, recording, outputs, options, language, probability
            )

    # ------------------------------------------------------------------ sound to windows

    def _read(self, audio: AudioInput, longest: int) -> Recording:
        sound = self.inputs.read_sound(audio)
        silent: list[Skipped] = []
        windows = list(self._windows(sound, longest, silent))
        duration = len(sound.samples) / self.audio.sampling_rate
        return Recording(windows, merged([*sound.skipped, *silent]), duration, sound.samples.nbytes)

    def _first_window(self, audio: AudioInput) -> Window | None:
        return next(self._windows(self.inputs.read_sound(audio), self.audio.window, []), None)

    def _windows(self, sound: Sound, longest: int, silent: list[Skipped]) -> Iterator[Window]:
        """The pieces that are worth a request; those without any sound are noted in `silent`."""
        rate = self.audio.sampling_rate
        for first, last in cut_at_quiet(sound.samples, longest, rate):
            samples, start, end = sound.samples[first:last], first / rate, last / rate
            if not is_digital_silence(samples):
                yield Window(start, end, self.engine.stored(self.inputs.clip(samples)))
            elif not any(span.start <= start and end <= span.end for span in sound.skipped):
                silent.append(Skipped(start, end, "digital silence"))

    # ------------------------------------------------------------------ windows to tokens

    async def _languages(
        self, media: EncoderInput, priority: int, deadline: Deadline
    ) -> dict[str, float]:
        """By the token right after the start. The clip's cross KV stays for the transcription."""
        if not self.format.multilingual:
            return {"en": 1.0}
        codes = {id_: code for code, id_ in self.format.languages.items()}
        params = SamplingParams(
            max_tokens=1,
            allowed_token_ids=tuple(codes),
            logprob_token_ids=tuple(codes),
            skip_special_tokens=False,
        )
        start = [self.format.start_id]
        opened = self.engine.submit(
            Prepared(media, start, params),
            start,
            timestamps=False,
            priority=priority,
            timeout=deadline.seconds_left,
        )
        (found,) = (await self.engine.result(opened)).logprobs or [{}]
        values = {codes[id_]: each.logprob for id_, each in found.items() if id_ in codes}
        likeliest = max(values.values())
        weights = {code: math.exp(value - likeliest) for code, value in values.items()}
        total = sum(weights.values())
        ordered = sorted(weights.items(), key=lambda item: -item[1])
        return {code: weight / total for code, weight in ordered}

    async def _decode(
        self,
        recording: Recording,
        language: str | None,
        options: TranscriptionOptions,
        deadline: Deadline,
    ) -> list[CompletionOutput]:
        windows, done = recording.windows, SecondsDone(recording, options.progress)
        if not windows:
            return []
        prompt = self.format.prompt(language, options.task, options.timestamps)

        async def decode(window: Window) -> CompletionOutput:
            opened = self.engine.submit(
                Prepared(window.media, prompt, options.params),
                prompt,
                timestamps=options.timestamps,
                priority=options.priority,
                timeout=deadline.seconds_left,
            )
            output = await self.engine.result(opened)
            done.add(window.end - window.start)
            return output

        tasks = [asyncio.create_task(decode(window)) for window in windows]
        try:
            return await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:  # one window failed: the others are not worth finishing
                task.cancel()
            raise

    # ------------------------------------------------------------------ tokens to text

    def _joined(
        self,
        recording: Recording,
        outputs: list[CompletionOutput],
        options: TranscriptionOptions,
        language: str | None,
        probability: float | None,
    ) -> Transcription:
        segments: list[Segment] = []
        texts: list[str] = []
        for window, output in zip(recording.windows, outputs, strict=True):
            for timed in self._timed(window, output, options.timestamps):
                raw = self.inputs.decode(timed.token_ids)
                if options.params.stop and timed.positions[-1] == len(output.token_ids) - 1:
                    raw = _before_stop(raw, options.params)
                texts.append(raw)
                segments.append(_segment(window, output, timed, raw))
        if options.params.stop:
            text = "".join(texts)
        else:  # a character of several tokens may begin in one segment and end in the next
            text = self.inputs.decode([id_ for segment in segments for id_ in segment.token_ids])
        return Transcription(
            text.strip(),
            language,
            segments,
            recording.duration,
            probability,
            recording.skipped,
        )

    def _timed(
        self, window: Window, output: CompletionOutput, timestamps: bool
    ) -> list[TimedTokens]:
        if timestamps:
            return self.format.segments(output.token_ids)
        positions = self.format.text_positions(output.token_ids)
        if not positions:
            return []
        ids = [output.token_ids[position] for position in positions]
        return [TimedTokens(0.0, window.end - window.start, ids, positions)]


def _segment(window: Window, output: CompletionOutput, timed: TimedTokens, raw: str) -> Segment:
    start = min(window.start + timed.start, window.end)
    end = window.end if timed.end is None else min(window.start + timed.end, window.end)
    logprobs = None
    if output.logprobs is not None:
        logprobs = [output.logprobs[position] for position in timed.positions]
    return Segment(start, end, raw.strip(), timed.token_ids, logprobs)


def _before_stop(text: str, params: SamplingParams) -> str:
    """A window's last text up to the stop string that ended it."""
    ends = [(text.find(stop), stop) for stop in params.stop if stop in text]
    if not ends:
        return text
    at, stop = min(ends)
    return text[: at + (len(stop) if params.include_stop_str_in_output else 0)]
