"""Transcription of whole recordings: each window is a request; texts and times are joined."""

import asyncio
import math
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar

from antiphon.config.errors import AudioError, PromptError
from antiphon.config.sampling import SamplingParams
from antiphon.engine.budget import Hold
from antiphon.engine.callers import one_caller
from antiphon.engine.deadline import Deadline
from antiphon.engine.open_request import OpenRequest
from antiphon.engine.outputs import CompletionOutput, Transcription
from antiphon.engine.progress import SecondsDone
from antiphon.engine.segments import joined
from antiphon.engine.windows import Recording, Window, WindowReader
from antiphon.inputs.audio.forms import AudioInput, expected_bytes
from antiphon.inputs.calls.options import checked_priority
from antiphon.inputs.calls.transcription import Progress, TranscriptionOptions
from antiphon.inputs.prepared import EncoderInput, Prepared
from antiphon.inputs.processor import InputProcessor
from antiphon.scheduler.request import Readout

P = ParamSpec("P")
T = TypeVar("T")


class RequestEngine(Protocol):
    """What a transcriber needs of an engine."""

    inputs: InputProcessor

    def submit(
        self, prepared: Prepared, prompt_token_ids: list[int], **options: Any
    ) -> OpenRequest: ...

    async def result(self, opened: OpenRequest) -> CompletionOutput: ...

    def hold_memory(self, num_bytes: int) -> Hold: ...

    async def run_in_thread(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T: ...


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

        `language`: code or name; None detects it in the first window with sound. `task`:
        'transcribe', or 'translate' into English. `timestamps`: segments as the model marks them,
        else one per window. `chunk_seconds`: longest piece between two cuts; None is the model's
        window. `params`: n is 1; `logprobs` come with the segments. `priority`: lower runs first.
        `timeout`: seconds for the whole call: reading, language detection and all windows.
        `progress`: called in the engine's event loop with the seconds of sound done and those in
        all, when the recording has been read and after each window; what it raises ends the call.

        Raises ConfigurationError for an unknown keyword, InputError before anything runs,
        AudioError, or RequestError.
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
        with one_caller():
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
        likeliest first; they add up to 1. Raises AudioError for digital silence."""
        priority, deadline = checked_priority(priority), Deadline(timeout)
        async with (
            deadline.limit(),
            self.engine.hold_memory(expected_bytes(audio, self.audio.sampling_rate)),
        ):
            first = await self.engine.run_in_thread(self.reader.first, audio)
            if first is None:
                raise AudioError("no language to detect: the recording is digital silence")
            return await self._languages(first.media, priority, deadline)

    async def default_prompt(
        self, media: EncoderInput, priority: int, deadline: Deadline
    ) -> list[int]:
        """For a prompt without tokens: transcribe without timestamps, in the language detected."""
        language = None
        if self.format.multilingual:
            language = next(iter(await self._languages(media, priority, deadline)))
        return self.format.prompt(language, "transcribe", timestamps=False)

    async def _transcribe(
        self, audio: AudioInput, options: TranscriptionOptions, deadline: Deadline
    ) -> Transcription:
        async with self.engine.hold_memory(expected_bytes(audio, self.audio.sampling_rate)) as held:
            recording = await self.engine.run_in_thread(self.reader.read, audio, options.longest)
            held.set(recording.num_bytes)
            language, probability = options.language, None
            if recording.windows and language is None:
                first = recording.windows[0].media
                languages = await self._languages(first, options.priority, deadline)
                language, probability = next(iter(languages.items()))
            outputs = await self._decode(recording, language, options, deadline)
            return await self.engine.run_in_thread(
                joined, self.inputs, recording, outputs, options, language, probability
            )

    # ------------------------------------------------------------------ windows to tokens

    async def _languages(
        self, media: EncoderInput, priority: int, deadline: Deadline
    ) -> dict[str, float]:
        """The probabilities of the token after the start. The window's cross KV stays cached for
        its transcription."""
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
            Prepared((media,), start, params),
            start,
            timestamps=False,
            priority=priority,
            timeout=deadline.seconds_left,
        )
        (logprobs,) = (await self.engine.result(opened)).logprobs or [{}]
        values = {codes[id_]: entry.logprob for id_, entry in logprobs.items() if id_ in codes}
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
        no_speech = Readout(prompt.index(self.format.start_id), self.format.no_speech_id)

        async def decode(window: Window) -> CompletionOutput:
            opened = self.engine.submit(
                Prepared((window.media,), prompt, options.params),
                prompt,
                timestamps=options.timestamps,
                priority=options.priority,
                timeout=deadline.seconds_left,
                readouts=(no_speech,),
            )
            output = await self.engine.result(opened)
            done.add(window.end - window.start)
            return output

        tasks = [asyncio.create_task(decode(window)) for window in windows]
        try:
            return await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:  # a window failed: the others are useless
                task.cancel()
            raise
