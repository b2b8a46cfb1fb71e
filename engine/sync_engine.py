"""The synchronous engine: `AsyncEngine` in an event loop of its own."""

import logging
import os
import sys
import threading
import weakref
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Never, Self, TypeVar

from antiphon.actors.workers import Workers
from antiphon.config.errors import AntiphonError, PromptError
from antiphon.config.options import EngineConfig
from antiphon.config.sampling import SamplingParams
from antiphon.engine.async_engine import AsyncEngine
from antiphon.engine.live.transcriber import LiveUpdate
from antiphon.engine.loop_thread import LoopThread
from antiphon.engine.outputs import RequestOutput, Segment, StreamDelta, Transcription
from antiphon.engine.progress import TogetherDone
from antiphon.engine.read_ahead import Begun
from antiphon.inputs.audio.forms import AudioInput
from antiphon.inputs.calls.options import (
    NAMES,
    Params,
    all_prompts,
    check_recordings,
    checked_params,
    checked_priority,
    one_each,
    one_of,
    refuse_unknown,
)
from antiphon.inputs.calls.transcription import checked_timeout
from antiphon.inputs.chat import chat_prompts
from antiphon.inputs.prompts import Prompt
from antiphon.runtime.forks import COPIED

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Engine:
    """`with Engine(model) as engine`. The synchronous face of `AsyncEngine`; safe to call from
    several threads. One that is dropped without `close` is closed when it is collected."""

    def __init__(self, model: str, **options: Any) -> None:
        """Starts the workers and loads their weights. Raises what `AsyncEngine` and its `start`
        raise."""
        engine = AsyncEngine(model, **options)
        self._start(engine.start())

    @classmethod
    def attach(cls, name: str, *, address: str | None = None) -> Self:
        """As `AsyncEngine.attach`: shares the workers of a running engine."""
        engine = cls.__new__(cls)
        engine._start(AsyncEngine.attach(name, address=address))
        return engine

    def _start(self, start: Coroutine[Any, Any, AsyncEngine]) -> None:
        self._pid = os.getpid()
        self._closing = threading.RLock()  # reentrant: a signal handler may close during a close
        self._loop_thread = LoopThread()
        try:
            self._async = self._loop_thread.run(start)
        except BaseException:
            self._loop_thread.stop()
            raise
        self._dropped = weakref.finalize(self, _close_dropped, self._async, self._loop_thread)
        self._dropped.atexit = False  # workers are closed at exit anyway

    def __repr__(self) -> str:
        return repr(self._async).replace("Async", "", 1)

    def __reduce__(self) -> Never:
        raise TypeError(COPIED)

    @property
    def config(self) -> EngineConfig:
        return self._async.config

    @property
    def workers(self) -> Workers | None:
        return self._async.workers

    # ------------------------------------------------------------------ prompts

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: Params = None,
        use_tqdm: bool = True,
        *,
        sampling_params: Params = None,
        **options: Any,
    ) -> list[RequestOutput]:
        """All prompts, in their order. A failed prompt has its error in its RequestOutput, and does
        not affect the others.

        `params`: for all prompts, or one each; `sampling_params` is vLLM's name for it. Options: as
        `AsyncEngine.generate`. Raises SamplingError, PromptError or ConfigurationError for a wrong
        option, before any prompt starts.
        """
        self._check_options("generate()", options, one_of(params, sampling_params))
        many: list[Prompt] = all_prompts(prompts)
        pairs = list(zip(many, one_each(params, sampling_params, len(many)), strict=True))
        outputs: list[RequestOutput] = [RequestOutput("", [])] * len(pairs)
        with _progress(len(pairs), use_tqdm) as progress:
            for index, output in self._generated(pairs, options):
                outputs[index] = output
                progress.update()
        return outputs

    def chat(
        self, messages: Any, params: Params = None, use_tqdm: bool = True, **options: Any
    ) -> list[RequestOutput]:
        """One chat, or a list of chats, in OpenAI's form: messages with text and images. The same
        as `generate` with prompts {"messages": ...}. Options: those of `generate`, and
        `TEMPLATE_OPTIONS` of inputs/chat.py."""
        return self.generate(chat_prompts(messages, options), params, use_tqdm, **options)

    def generate_as_completed(
        self, prompts: Iterable[Prompt], params: SamplingParams | None = None, **options: Any
    ) -> Iterator[tuple[int, RequestOutput]]:
        """Each prompt's number and result, as it completes; a failed one has its error in it.

        Prompts are read as the engine gets to them. Leaving the loop early cancels the rest.
        Options: as `AsyncEngine.generate`. Raises as `generate` for a wrong option.
        """
        self._check_options("generate_as_completed()", options, params)
        if isinstance(prompts, (str, Mapping)) or not isinstance(prompts, Iterable):
            raise PromptError(
                f"give a list of prompts, not {type(prompts).__name__}; "
                "for a single one there is generate()"
            )
        params = checked_params(params)
        return self._generated(((prompt, params) for prompt in prompts), options)

    def _check_options(self, call: str, options: Mapping[str, Any], params: Any) -> None:
        """Raises once what every prompt of the call would end with."""
        refuse_unknown(call, {name: value for name, value in options.items() if name not in NAMES})
        checked_priority(options.get("priority"))
        checked_timeout(options.get("timeout"))
        if isinstance(params, SamplingParams):
            self._async.inputs.check(params)

    def _generated(
        self, pairs: Iterable[tuple[Prompt, SamplingParams | None]], options: Mapping[str, Any]
    ) -> Iterator[tuple[int, RequestOutput]]:
        for index, output in self._loop_thread.as_completed(
            pairs, lambda pair: self._async.generate(*pair, **options)
        ):
            if isinstance(output, AntiphonError):
                output = RequestOutput("", [], error=output)
            yield index, output

    def stream(
        self, prompt: Prompt, params: SamplingParams | None = None, **options: Any
    ) -> Iterator[StreamDelta]:
        """As `AsyncEngine.stream`. A generator of this engine's: who iterates keeps the engine."""
        yield from self._loop_thread.iterate(self._async.stream(prompt, params, **options))

    def encode(self, sources: Any, **options: Any) -> list[Any]:
        """As `AsyncEngine.encode`, of each source, in their order; a failed one's error stands in
        its place. One source alone gives a list of one, and raises its error. Raises as
        `AsyncEngine.encode` for a wrong option, before any source is read."""
        self._async.check_encode(**options)
        if self._async.encoder_inputs.is_one(sources):
            return [self._loop_thread.run(self._async.encode(sources, **options))]
        encode = partial(self._async.encode, **options)
        ends = self._loop_thread.as_completed(sources, encode)
        return [end for _, end in sorted(ends, key=lambda pair: pair[0])]

    # ------------------------------------------------------------------ recordings

    def transcribe(self, audio: AudioInput, **options: Any) -> Transcription:
        """As `AsyncEngine.transcribe`."""
        return self._loop_thread.run(self._async.transcribe(audio, **options))

    def stream_segments(
        self, audio: AudioInput, **options: Any
    ) -> Iterator[Segment | Transcription]:
        """As `AsyncEngine.stream_segments`."""
        yield from self._loop_thread.iterate(self._async.stream_segments(audio, **options))

    def live(
        self, chunks: Iterable[Any], sampling_rate: int = 16_000, **options: Any
    ) -> Iterator[LiveUpdate]:
        """As `AsyncEngine.live`."""
        yield from self._loop_thread.iterate(self._async.live(chunks, sampling_rate, **options))

    def transcribe_all(
        self, recordings: Iterable[AudioInput], **options: Any
    ) -> list[Transcription | AntiphonError]:
        """Many recordings at once, in their order; a failed one's error stands in its place.
        Options: as `AsyncEngine.transcribe`."""
        results = self.transcribe_as_completed(recordings, **options)
        return [result for _, result in sorted(results, key=lambda pair: pair[0])]

    def transcribe_as_completed(
        self, recordings: Iterable[AudioInput], **options: Any
    ) -> Iterator[tuple[int, Transcription | AntiphonError]]:
        """Each recording's number and result, as it completes.

        Recordings are read as the engine gets to them, so there may be any number: as many windows
        are open as the decoders have room for, and as many again. Leaving the loop early cancels
        the rest. `progress` gets the sums over all recordings that have been read.
        """
        check_recordings(recordings)
        self._async.inputs.check_transcription(**options)  # once, not an error for each recording
        together = TogetherDone(options.pop("progress", None) or _no_progress)
        ahead, seconds = self._async.read_ahead(), self._async.expected_seconds

        async def transcribe(item: tuple[AudioInput, Begun]) -> Transcription:
            audio, begun = item
            with together.one_more() as progress:
                try:
                    progress = begun.also(progress)
                    return await self._async.transcribe(audio, progress=progress, **options)
                finally:
                    begun.end()

        # Begun in the caller's thread, which takes the next recording only while there is room.
        items = ((audio, ahead.begin(seconds(audio))) for audio in recordings)
        return self._loop_thread.as_completed(items, transcribe, ahead)

    def detect_language(self, audio: AudioInput, **options: Any) -> dict[str, float]:
        """As `AsyncEngine.detect_language`."""
        return self._loop_thread.run(self._async.detect_language(audio, **options))

    # ------------------------------------------------------------------ the engine

    def stats(self) -> dict[str, int]:
        """As `AsyncEngine.stats`."""
        return self._loop_thread.run(self._async.stats())

    def close(self) -> None:
        """Stops the workers; open requests end with EngineDeadError.

        May be called twice, and by several threads: all of them return when the engine is closed. A
        finalizer may call it, at any time and in any thread.
        """
        if os.getpid() != self._pid or sys.is_finalizing():  # then the workers were closed at exit
            return
        if threading.current_thread() is self._loop_thread.thread:  # it would wait for itself
            threading.Thread(target=self.close, name="antiphon-close", daemon=True).start()
            return
        with self._closing:
            if not self._loop_thread.stopped:
                self._dropped.detach()
                _close(self._async, self._loop_thread)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _no_progress(done: float, in_all: float) -> None:
    pass


def _close_dropped(engine: AsyncEngine, loop_thread: LoopThread) -> None:
    """For an `Engine` that was collected. In a thread of its own, as the collector may run in any
    thread, the engine's own among them, and in the middle of any call."""
    if not loop_thread.stopped and not loop_thread.is_copy and not sys.is_finalizing():
        logger.info("closing an engine that was dropped without close()")
        closing = threading.Thread(
            target=_close, args=(engine, loop_thread), name="antiphon-close", daemon=True
        )
        closing.start()


def _close(engine: AsyncEngine, loop_thread: LoopThread) -> None:
    loop_thread.run(engine.close())
    loop_thread.stop()


def _progress(total: int, wanted: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, unit="prompt", disable=None if wanted else True)
