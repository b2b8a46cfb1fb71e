"""One window's text: requests over the same sound, until one of them is good enough."""

import asyncio
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from antiphon.config.sampling import SamplingParams
from antiphon.engine.deadline import Deadline
from antiphon.engine.open_request import OpenRequest
from antiphon.engine.outputs import CompletionOutput
from antiphon.engine.transcribing.request_engine import RequestEngine
from antiphon.engine.transcribing.windows import Window
from antiphon.engine.transcribing.words import WordRequests
from antiphon.inputs.calls.transcription import TranscriptionOptions
from antiphon.inputs.plain_speech import within_speech
from antiphon.inputs.prepared import EncoderInput, Prepared
from antiphon.inputs.whisper.prompts import WindowPrompt, window_prompt
from antiphon.scheduler.generated import Readout

PARAMS_KEPT = 256  # of attempts: most calls ask for what others did


@dataclass(frozen=True)
class Decoded:
    """What became of a window. `compression_ratio`: high where its text repeats itself."""

    output: CompletionOutput
    temperature: float
    compression_ratio: float
    language: str | None

    @classmethod
    def of(cls, output: CompletionOutput, temperature: float, language: str | None) -> "Decoded":
        return cls(output, temperature, compression_ratio(output.text.strip()), language)

    def with_output(self, output: CompletionOutput) -> "Decoded":
        return self if output is self.output else replace(self, output=output)


class WindowDecoder:
    """Decodes the windows of one call.

    The attempts at a window have its content key in common: the first one's cross KV stays cached
    for those after it.
    """

    def __init__(
        self, engine: RequestEngine, options: TranscriptionOptions, deadline: Deadline
    ) -> None:
        assert engine.inputs.whisper is not None
        self.engine, self.options, self.deadline = engine, options, deadline
        self.format = engine.inputs.whisper
        self._times = WordRequests(engine, options, deadline) if engine.inputs.has_words else None
        self._words = None if options.words is None else self._times

    async def decode(
        self,
        media: EncoderInput,
        language: str | None,
        previous: Sequence[int] = (),
        is_first: bool = True,
    ) -> Decoded:
        """`previous`: tokens of earlier text. The result may still be silence, or bad where no
        attempt was good."""
        prompt = self.prompt(language, previous, is_first)
        decoded = await self._attempt(
            media, prompt, self.options.fallback.temperatures[0], language
        )
        if self._failed(decoded) and (full := self.engine.inputs.in_full_window(media)) is not None:
            # Published models repeat themselves in short windows: the full one may do.
            media = full
            decoded = await self._attempt(media, prompt, decoded.temperature, language)
        for temperature in self.options.fallback.temperatures[1:]:
            if not self._failed(decoded):
                break
            decoded = await self._attempt(media, prompt, temperature, language)
        return decoded.with_output(await self.with_words(decoded.output, media, language))

    async def with_words(
        self, output: CompletionOutput, media: EncoderInput, language: str | None
    ) -> CompletionOutput:
        """`output`, which now knows when its tokens were said if words are wanted."""
        if self._words is None:
            return output
        return await self._words.aligned(output, media, language)

    async def shareable(
        self, output: CompletionOutput, window: Window, language: str | None
    ) -> CompletionOutput:
        """`output`, which knows when its tokens were said if another window hears some of them, and
        if the model can tell."""
        if self._times is None or not (window.shared or window.shares):
            return output
        return await self._times.aligned(output, window.media, language)

    def prompt(
        self, language: str | None, previous: Sequence[int], is_first: bool = True
    ) -> WindowPrompt:
        options, earlier = self.options, self.options.earlier
        sequence = self.format.prompt(language, options.task, options.timestamps)
        prefix = earlier.prefix if is_first else ()
        return window_prompt(
            self.format, sequence, previous, earlier.hotwords, prefix, earlier.keeps_prefix
        )

    def _failed(self, decoded: Decoded) -> bool:
        output = decoded.output
        return self.options.fallback.failed(
            decoded.compression_ratio, output.avg_logprob, output.no_speech_prob
        )

    async def _attempt(
        self, media: EncoderInput, prompt: WindowPrompt, temperature: float, language: str | None
    ) -> Decoded:
        """The likeliest of `best_of` samples, or the one text of temperature 0."""
        samples = range(self.options.fallback.best_of if temperature > 0 else 1)
        requests = [self.submit(media, prompt, temperature, sample=sample) for sample in samples]
        try:
            if len(requests) == 1:  # without a task of its own: saves turns of the loop
                outputs = [await self.engine.result(requests[0])]
            else:
                outputs = await asyncio.gather(*(self.engine.result(opened) for opened in requests))
        except BaseException:
            for opened in requests:
                self.engine.cancel(opened)
            raise
        best = max(outputs, key=_likelihood)
        if prompt.begun:
            best = self._with_beginning(best, prompt.token_ids[-prompt.begun :])
        return Decoded.of(best, temperature, language)

    def _with_beginning(self, output: CompletionOutput, token_ids: list[int]) -> CompletionOutput:
        """`output` behind the tokens that began its text, which its averages know of already. When
        they were said is not known yet."""
        begun, logprobs = len(token_ids), output.logprobs
        return replace(
            output,
            token_ids=[*token_ids, *output.token_ids],
            text=self.engine.inputs.decode(token_ids) + output.text,
            token_logprobs=[0.0] * begun + (output.token_logprobs or []),
            logprobs=None if logprobs is None else [{} for _ in token_ids] + logprobs,
            token_frames=None,
        )

    def submit(
        self, media: EncoderInput, prompt: WindowPrompt, temperature: float, **how: Any
    ) -> OpenRequest:
        """`how`: as `OpenRequests.submit` takes it."""
        options = self.options
        params = self._bounded(at_temperature(options.params, temperature), prompt)
        no_speech = self.format.no_speech_id
        alignment = None
        if self._words is not None and not prompt.begun:  # else it is asked for the whole text
            alignment = self._words.question(media, prompt)
        return self.engine.submit(
            Prepared((media,), prompt.token_ids, within_speech(params, media, self.engine.inputs)),
            prompt.token_ids,
            timestamps=options.timestamps,
            priority=options.priority,
            timeout=self.deadline.seconds_left,
            readouts=() if no_speech is None else (Readout(prompt.start, no_speech),),
            rule_changes=options.rules,
            begun=prompt.begun,
            alignment=alignment,
            **how,
        )

    def _bounded(self, params: SamplingParams, prompt: WindowPrompt) -> SamplingParams:
        """Where a bad text is tried again, one may take half of the decoder's positions, as in
        openai/whisper: a text that repeats itself goes on to the end of its room."""
        if not (self.options.fallback.tries_again and params.leaves_open("max_tokens")):
            return params
        inputs = self.engine.inputs
        own = inputs.max_tokens(len(prompt.token_ids), inputs.complete(params))
        most = max(params.min_tokens, min(own, self.format.positions // 2))
        return replace(params, max_tokens=most)


@lru_cache(PARAMS_KEPT)
def at_temperature(params: SamplingParams, temperature: float) -> SamplingParams:
    """`params` of one attempt: as in openai/whisper, beams search at temperature 0 alone."""
    if temperature > 0:
        return replace(params, temperature=temperature, beam_size=1)
    return replace(params, temperature=temperature)


def compression_ratio(text: str) -> float:
    """High where the text repeats itself. As openai/whisper measures it."""
    content = text.encode()
    return len(content) / len(zlib.compress(content))


def _likelihood(output: CompletionOutput) -> float:
    return float("-inf") if output.avg_logprob is None else output.avg_logprob
