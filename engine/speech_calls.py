"""What an engine does with recordings, and what a transcriber asks it for."""

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from contextlib import aclosing
from typing import Any, ParamSpec, TypeVar

import numpy as np

from antiphon.engine.budget import Hold
from antiphon.engine.completion import completion_output
from antiphon.engine.life import EngineLife
from antiphon.engine.live.stream import live_updates
from antiphon.engine.live.transcriber import LiveUpdate
from antiphon.engine.open_request import OpenRequest
from antiphon.engine.outputs import CompletionOutput, Segment, Transcription
from antiphon.engine.read_ahead import ReadAhead
from antiphon.engine.transcribing.stream import StreamingTranscriber
from antiphon.engine.transcribing.transcriber import Transcriber
from antiphon.inputs.audio.forms import AudioInput, expected_bytes
from antiphon.inputs.calls.options import DETECTION_NAMES, refuse_unknown
from antiphon.inputs.prepared import Prepared

P = ParamSpec("P")
T = TypeVar("T")

AHEAD = 2  # windows of one call that are open, for each slot of the decoders


class SpeechCalls(EngineLife):
    """The calls of `AsyncEngine` that take recordings of any length."""

    async def transcribe(self, audio: AudioInput, **options: Any) -> Transcription:
        """A recording of any length. Options: those of docs/transcription.md."""
        self.check_caller()
        return await Transcriber(self).transcribe(audio, **options)

    async def stream_transcription(
        self, audio: AudioInput, **options: Any
    ) -> AsyncGenerator[str | Transcription, None]:
        """Text as it comes, and at the end the `Transcription`. Leaving the loop early cancels the
        rest. Options: as `transcribe`."""
        self.check_caller()
        async with aclosing(StreamingTranscriber(self).stream(audio, **options)) as pieces:
            async for piece in pieces:
                yield piece

    async def stream_segments(
        self, audio: AudioInput, **options: Any
    ) -> AsyncGenerator[Segment | Transcription, None]:
        """Each segment as soon as it is certain, in their order, and at the end the
        `Transcription`. Leaving the loop early cancels the rest. Options: as `transcribe`."""
        self.check_caller()
        async with aclosing(Transcriber(self).segments(audio, **options)) as windows:
            async for segments in windows:
                for item in segments if isinstance(segments, list) else [segments]:
                    yield item

    async def live(
        self,
        chunks: AsyncIterable[Any] | Iterable[Any],
        sampling_rate: int = 16_000,
        **options: Any,
    ) -> AsyncGenerator[LiveUpdate, None]:
        """Words of sound that is still being spoken: confirmed ones, and tentative ones that the
        next update may change. `chunks`: samples as they come, as arrays or 16-bit bytes; one that
        blocks is read in a thread. Options: `LiveOptions`, and those of `transcribe` for each
        hypothesis. Leaving the loop early cancels what is under way."""
        self.check_caller()
        async with aclosing(live_updates(self, chunks, sampling_rate, options)) as updates:
            while (update := await self.preparation.waits.result(anext(updates, None))) is not None:
                yield update

    async def detect_language(
        self, audio: AudioInput, *, priority: int = 0, timeout: float | None = None, **unknown: Any
    ) -> dict[str, float]:
        """The probability of each language that the model knows, likeliest first (see
        `Transcriber.detect_languages`). Raises ConfigurationError for an unknown keyword."""
        self.check_caller()
        refuse_unknown("detect_language()", unknown, DETECTION_NAMES)
        return await Transcriber(self).detect_languages(audio, priority=priority, timeout=timeout)

    # ------------------------------------------------------------------ for the transcriber

    def submit(
        self, prepared: Prepared, prompt_token_ids: list[int], **options: Any
    ) -> OpenRequest:
        """As `OpenRequests.submit`. Raises EngineDeadError."""
        self.check_caller()
        return self.requests.submit(prepared, prompt_token_ids, **options)

    def cancel(self, opened: OpenRequest) -> None:
        """As `OpenRequests.cancel`."""
        self.requests.cancel(opened)

    async def result(self, opened: OpenRequest) -> CompletionOutput:
        """Waits for the end of one request. Raises the RequestError that it ended with; cancels it
        when the caller is cancelled."""
        return completion_output(self.inputs, opened, await self.requests.wait(opened), 0)

    def read_ahead(self) -> ReadAhead:
        """For the recordings of one call: twice the windows that the decoders run at a time."""
        seconds = self.inputs.audio.window_seconds if self.inputs.audio else 1.0
        slots = self.config.scheduler.max_num_seqs * self.config.decoder.replicas
        return ReadAhead(AHEAD * slots, seconds)

    def expected_seconds(self, audio: AudioInput) -> float:
        """An estimate of a recording's length, before it is read."""
        if self.inputs.audio is None:
            return 0.0
        rate = self.inputs.audio.sampling_rate
        return expected_bytes(audio, rate) / rate / np.dtype(np.float32).itemsize

    def hold_memory(self, num_bytes: int) -> Hold:
        """As `ByteBudget.hold`, of the budget of audio in memory."""
        return self.preparation.memory.hold(num_bytes)

    async def run_in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.preparation.run_in_thread(function, *args, **kwargs)
