"""The engine: takes prompts, follows each request to its one end, returns text.

It never touches hidden states. `AsyncEngine` runs in the caller's event loop;
`antiphon.engine.sync_engine.Engine` is its synchronous face.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from antiphon.actors.object_refs import check_object_store, put
from antiphon.config.errors import PromptError, SamplingError
from antiphon.config.sampling import SamplingParams
from antiphon.engine.budget import Hold
from antiphon.engine.callers import OneCaller
from antiphon.engine.completion import completion_outputs
from antiphon.engine.deadline import Deadline
from antiphon.engine.open_request import OpenRequest
from antiphon.engine.outputs import RequestOutput, StreamDelta
from antiphon.engine.speech_calls import SpeechCalls
from antiphon.engine.transcribing.transcriber import Transcriber
from antiphon.inputs.calls.options import (
    ENCODE_NAMES,
    checked_params,
    checked_priority,
    refuse_unknown,
)
from antiphon.inputs.calls.transcription import checked_timeout
from antiphon.inputs.chat import chat_prompts
from antiphon.inputs.encoder_inputs import check_pooled
from antiphon.inputs.prepared import Prepared
from antiphon.inputs.prompts import Prompt
from antiphon.scheduler.request import Finished


class AsyncEngine(SpeechCalls):
    """`async with AsyncEngine(model) as engine`, or `await start()` and `await close()`.

    `model` is a hub id or a folder in transformers format; options are those of docs/options.md.
    The constructor checks options and reads the checkpoint's descriptions; weights load in `start`.
    An engine belongs to the process and the event loop that started it: calls from others raise
    EngineDeadError.
    """

    async def generate(
        self,
        prompt: Prompt | Prepared,
        params: SamplingParams | None = None,
        *,
        sampling_params: SamplingParams | None = None,
        priority: int = 0,
        timeout: float | None = None,
        source_language: str | None = None,
        target_language: str | None = None,
        **unknown: Any,
    ) -> RequestOutput:
        """One prompt to its end; also one that `inputs.prepare` has prepared for these `params`.

        `timeout`: seconds until the call expires, reading and language detection included.
        `priority`: lower runs first. Languages are for translation models, in any spelling; those
        that the prompt itself names go first. `sampling_params` is vLLM's name for `params`.

        Raises InputError, RequestError, or ConfigurationError for an unknown keyword.
        """
        self.check_caller()
        refuse_unknown("generate()", unknown)
        params, deadline = checked_params(params, sampling_params), Deadline(timeout)
        priority = checked_priority(priority)
        languages = (source_language, target_language)
        with OneCaller():
            async with deadline.limit(), self.preparation.memory.hold(0) as held:
                prepared, prompt_ids = await self._prepared(
                    held, prompt, params, languages, priority, deadline
                )
                submit = partial(
                    self.submit,
                    prepared,
                    prompt_ids,
                    priority=priority,
                    timeout=deadline.seconds_left,
                )
                samples = [submit()]
                if samples[0].request.rules.beams is None:  # else one request has all n
                    samples += [submit(sample=sample) for sample in range(1, params.n)]
                ends = await self._wait_for_all(samples)
        completions = completion_outputs(self.inputs, samples, ends)
        return RequestOutput(str(samples[0].request.id), prompt_ids, completions, ends[0].metrics)

    async def chat(
        self, messages: Any, params: SamplingParams | None = None, **options: Any
    ) -> RequestOutput:
        """One chat in OpenAI's form: `generate` with the prompt {"messages": ...}, which `stream`
        takes too. Options: also `TEMPLATE_OPTIONS` of inputs/chat.py."""
        prompts = chat_prompts(messages, options)
        if len(prompts) != 1:
            raise PromptError(f"{len(prompts)} chats at once: call chat() for each")
        return await self.generate(prompts[0], params, **options)

    async def stream(
        self,
        prompt: Prompt | Prepared,
        params: SamplingParams | None = None,
        *,
        sampling_params: SamplingParams | None = None,
        priority: int = 0,
        timeout: float | None = None,
        source_language: str | None = None,
        target_language: str | None = None,
        **unknown: Any,
    ) -> AsyncGenerator[StreamDelta, None]:
        """New text as it comes; the last delta has the finish reason.

        Leaving the loop early cancels the request. Options and errors: as `generate`.
        """
        self.check_caller()
        refuse_unknown("stream()", unknown)
        params, deadline = checked_params(params, sampling_params), Deadline(timeout)
        priority = checked_priority(priority)
        if params.n != 1:
            raise SamplingError(f"stream() gives one sample, not n={params.n}: use generate()")
        languages = (source_language, target_language)
        async with AsyncExitStack() as scope:
            async with deadline.limit():
                held = await scope.enter_async_context(self.preparation.memory.hold(0))
                prepared, prompt_ids = await self._prepared(
                    held, prompt, params, languages, priority, deadline
                )
            opened = self.submit(
                prepared, prompt_ids, stream=True, priority=priority, timeout=deadline.seconds_left
            )
            scope.callback(self.requests.cancel, opened)
            assert opened.text is not None
            sent = 0
            while not opened.future.done():
                async with deadline.limit():
                    await opened.updated.wait()
                opened.updated.clear()
                if not opened.future.done():
                    tokens = opened.text.token_ids[sent:]
                    sent += len(tokens)
                    yield StreamDelta(opened.text.take(), tokens)
            finished = await self.requests.wait(opened)
        text, stopped = opened.text.take(final=True), opened.text.stopped
        count = len(opened.text.token_ids if stopped else finished.token_ids)
        reason = "stop" if stopped else finished.reason
        yield StreamDelta(text, opened.text.token_ids[sent:], reason, count)

    async def encode(
        self,
        source: Any,
        *,
        pooled: bool = False,
        object_refs: bool = False,
        timeout: float | None = None,
        **unknown: Any,
    ) -> Any:
        """What the encoder makes of a text, a recording of one window at most, or an image: hidden
        states, float32 [tokens, hidden]. `pooled`: one embedding [size] of an image.
        `object_refs`: a `ray.ObjectRef` of the array, which lies in this node's object store.

        `timeout`: seconds until the call expires. Raises InputError, RequestError, or
        ConfigurationError for an unknown keyword and for `object_refs` without Ray.
        """
        self.check_caller()
        self.check_encode(pooled, object_refs, timeout, **unknown)
        deadline = Deadline(timeout)
        with OneCaller():
            async with deadline.limit(), self.preparation.memory.hold(0) as held:
                media = await self.preparation.read(held, self.encoder_inputs.begin, source)
                states = await self.requests.encodes.encode(media, pooled)
                return await put(states) if object_refs else states

    def check_encode(
        self,
        pooled: bool = False,
        object_refs: bool = False,
        timeout: float | None = None,
        **unknown: Any,
    ) -> None:
        """Raises what every source of a call would end with."""
        refuse_unknown("encode()", unknown, ENCODE_NAMES)
        checked_timeout(timeout)
        check_pooled(self.model, pooled)
        if object_refs:
            check_object_store(self.config)

    async def stats(self) -> dict[str, int]:
        """Sums of the workers' counters: encodes, cross_cache_hits, kept_states_hits, preemptions,
        steps, tokens, kv_pages, encoder_batches, ... (docs/metrics.md)"""
        self.check_caller()
        assert self.workers is not None
        total: dict[str, int] = {}
        for counters in await self.workers.stats():
            for name, value in counters.items():
                total[name] = total.get(name, 0) + value
        return total

    # ------------------------------------------------------------------ parts of a call

    async def _prepared(
        self,
        held: Hold,
        prompt: Prompt | Prepared,
        params: SamplingParams,
        languages: tuple[str | None, str | None],
        priority: int,
        deadline: Deadline,
    ) -> tuple[Prepared, list[int]]:
        """A prompt's parts, whose memory `held` holds, and its token ids. Detects the language if a
        Whisper prompt names none."""
        prepared = await self.preparation.prepared(held, prompt, params, languages)
        prompt_ids = prepared.prompt_token_ids
        if prompt_ids is None:
            transcriber = Transcriber(self)
            prompt_ids = await transcriber.default_prompt(prepared.media, priority, deadline)
        return prepared, prompt_ids

    async def _wait_for_all(self, samples: list[OpenRequest]) -> list[Finished]:
        """The ends of a prompt's samples. If one fails or the caller leaves, cancels the others."""
        try:
            if len(samples) == 1:  # without a task of its own: saves three turns of the loop
                return [await self.requests.wait(samples[0])]
            return await asyncio.gather(*(self.requests.wait(opened) for opened in samples))
        except BaseException:
            for opened in samples:
                self.requests.cancel(opened)
            raise
