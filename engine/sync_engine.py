"""The synchronous engine: an event loop in a thread of its own, and `AsyncEngine` in it."""

import asyncio
import os
import queue
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import partial
from types import NoneType
from typing import Any, Never, Self, TypeVar

from antiphon.actors.workers import Workers
from antiphon.config.errors import (
    AntiphonError,
    ConfigurationError,
    EngineDeadError,
    PromptError,
    RequestFailed,
    SamplingError,
)
from antiphon.config.options import EngineConfig
from antiphon.config.sampling import SamplingParams
from antiphon.engine.async_engine import AsyncEngine
from antiphon.engine.outputs import RequestOutput, StreamDelta, Transcription
from antiphon.engine.progress import TogetherDone
from antiphon.inputs.audio.forms import AudioInput
from antiphon.inputs.calls.options import (
    NAMES,
    all_prompts,
    check_recordings,
    checked_params,
    one_of,
    refuse_unknown,
)
from antiphon.inputs.prompts import Prompt
from antiphon.runtime.forks import COPIED, REMEDY

Item = TypeVar("Item")
T = TypeVar("T")

IN_FLIGHT = 2048  # inputs of one call that are with the engine at a time
CLOSED = "the engine was closed"


class Engine:
    """`with Engine(model) as engine`. The synchronous face of `AsyncEngine`; safe to call from several threads."""

    def __init__(self, model: str, **options: Any) -> None:
        self._async = AsyncEngine(model, **options)
        self._pid = os.getpid()
        self._gate, self._stopped = (
            threading.Lock(),
            False,
        )  # what is submitted behind the loop's end would wait for ever
        self._closing = threading.RLock()  # taken again by a signal handler that closes
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="antiphon-engine", daemon=True
        )
        self._thread.start()
        try:
            self._run(self._async.start())
        except BaseException:
            self._stop_loop()
            raise

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

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams | None] | None = None,
        use_tqdm: bool = True,
        *,
        sampling_params: SamplingParams | Sequence[SamplingParams | None] | None = None,
        **options: Any,
    ) -> list[RequestOutput]:
        """All prompts, in their order. One that fails has its error in its RequestOutput; the others are not touched.

        `params`: for all prompts, or one each; `sampling_params` is vLLM's name for it. Options: as `AsyncEngine.generate`.
        """
        refuse_unknown(
            "generate()", {name: value for name, value in options.items() if name not in NAMES}
        )
        many: list[Prompt] = all_prompts(prompts)
        pairs = list(zip(many, _one_each(params, sampling_params, len(many)), strict=True))
        outputs: list[RequestOutput] = [RequestOutput("", [])] * len(pairs)
        with _progress(len(pairs), use_tqdm) as progress:
            for index, output in self._generated(pairs, options):
                outputs[index] = output
                progress.update()
        return outputs

    def generate_as_completed(
        self, prompts: Iterable[Prompt], params: SamplingParams | None = None, **options: Any
    ) -> Iterator[tuple[int, RequestOutput]]:
        """Each prompt's place in `prompts` and its result, as soon as it is there; one that failed has its error in it. Prompts are
        taken as the engine gets to them. Leaving the loop early cancels the rest. Options: as `AsyncEngine.generate`."""
        refuse_unknown(
            "generate_as_completed()",
            {name: value for name, value in options.items() if name not in NAMES},
        )
        if isinstance(prompts, (str, Mapping)) or not isinstance(prompts, Iterable):
            raise PromptError(
                f"give a list of prompts, not {type(prompts).__name__}; for a single one there is generate()"
            )
        params = checked_params(params)
        return self._generated(((prompt, params) for prompt in prompts), options)

    def _generated(
        self, pairs: Iterable[tuple[Prompt, SamplingParams | None]], options: Mapping[str, Any]
    ) -> Iterator[tuple[int, RequestOutput]]:
        for index, output in self._as_completed(
            pairs, lambda pair: self._async.generate(*pair, **options)
        ):
            yield (
                index,
                RequestOutput("", [], error=output)
                if isinstance(output, AntiphonError)
                else output,
            )

    def stream(
        self, prompt: Prompt, params: SamplingParams | None = None, **options: Any
    ) -> Iterator[StreamDelta]:
        """As `AsyncEngine.stream`."""
        deltas = self._async.stream(prompt, params, **options)
        try:
            while True:
                try:
                    yield self._run(anext(deltas))  # type: ignore[arg-type]
                except StopAsyncIteration:
                    return
        finally:
            with suppress(EngineDeadError):  # its end has been told
                self._run(deltas.aclose())  # type: ignore[attr-defined]

    def transcribe(self, audio: AudioInput, **options: Any) -> Transcription:
        """As `AsyncEngine.transcribe`."""
        return self._run(self._async.transcribe(audio, **options))

    def transcribe_all(
        self, recordings: Iterable[AudioInput], **options: Any
    ) -> list[Transcription | AntiphonError]:
        """Many recordings at once, in their order; an error stands where one failed. Options: as `AsyncEngine.transcribe`."""
        return [
            result
            for _, result in sorted(
                self.transcribe_as_completed(recordings, **options), key=lambda pair: pair[0]
            )
        ]

    def transcribe_as_completed(
        self, recordings: Iterable[AudioInput], **options: Any
    ) -> Iterator[tuple[int, Transcription | AntiphonError]]:
        """Each recording's place in `recordings` and its result, as soon as it is there. Recordings are taken as the engine gets to
        them, so there may be any number. Leaving the loop early cancels the rest. `progress` gets the sums of all that have been
        read."""
        check_recordings(recordings)
        self._async.inputs.check_transcription(**options)  # once, not an error for each recording
        if options.get("progress") is None:
            return self._as_completed(
                recordings, lambda audio: self._async.transcribe(audio, **options)
            )
        together = TogetherDone(options.pop("progress"))

        async def transcribe(audio: AudioInput) -> Transcription:
            with together.one_more() as progress:
                return await self._async.transcribe(audio, progress=progress, **options)

        return self._as_completed(recordings, transcribe)

    def detect_language(self, audio: AudioInput, **options: Any) -> dict[str, float]:
        """As `AsyncEngine.detect_language`."""
        return self._run(self._async.detect_language(audio, **options))

    def stats(self) -> dict[str, int]:
        """As `AsyncEngine.stats`."""
        return self._run(self._async.stats())

    def close(self) -> None:
        """Stops the workers; open requests end with EngineDeadError. May be called twice, and by several threads: all of them
        return when the engine is closed. A finalizer may call it, at any time and in any thread."""
        if os.getpid() != self._pid or sys.is_finalizing():  # then the workers were closed at exit
            return
        if threading.current_thread() is self._thread:  # it would wait for itself
            threading.Thread(target=self.close, name="antiphon-close", daemon=True).start()
            return
        with self._closing:
            if not self._stopped:
                self._run(self._async.close())
                self._stop_loop()

    def _stop_loop(self) -> None:
        with self._gate:
            self._stopped = True
            ending = asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop)
        ending.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        future = self._submit(coroutine)
        try:
            return _result(future)
        except BaseException:
            future.cancel()
            raise

    def _submit(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        if os.getpid() != self._pid:  # the loop's thread stayed behind in the parent
            coroutine.close()
            raise EngineDeadError(
                f"this engine belongs to process {self._pid}, from which this one was forked; {REMEDY}"
            )
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise ConfigurationError(
                "this is the engine's own thread, in which a finalizer may run: a call would wait for itself"
            )
        with self._gate:
            if (
                not self._stopped and not sys.is_finalizing()
            ):  # then the loop's thread has stopped, as all daemons have
                return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        coroutine.close()
        raise EngineDeadError(CLOSED)

    def _as_completed(
        self, items: Iterable[Item], call: Callable[[Item], Coroutine[Any, Any, T]]
    ) -> Iterator[tuple[int, T | AntiphonError]]:
        """`call` on every item, some at a time; whatever it raises is that item's error. A dead engine ends it all."""
        ended: queue.SimpleQueue[tuple[int, Future[T]]] = queue.SimpleQueue()
        open_: dict[int, Future[T]] = {}
        numbered = enumerate(items)
        more = True
        try:
            while more or open_:
                while more and len(open_) < IN_FLIGHT and ended.empty():
                    if more := (pair := next(numbered, None)) is not None:
                        index, item = pair
                        open_[index] = self._submit(call(item))
                        open_[index].add_done_callback(partial(_note, ended, index))
                if open_:
                    index, future = ended.get()
                    del open_[index]
                    result: T | AntiphonError = _outcome(future)
                    yield index, result
        finally:
            for future in open_.values():
                future.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _note(ended: "queue.SimpleQueue[tuple[int, Future[T]]]", index: int, future: Future[T]) -> None:
    ended.put((index, future))


def _result(future: "Future[T]") -> T:
    """Of a call in the engine's loop. Who closes the engine cancels what is under way there."""
    try:
        return future.result()
    except CancelledError:
        raise EngineDeadError(CLOSED) from None


def _outcome(future: "Future[T]") -> T | AntiphonError:
    """A result, or the error in its place."""
    try:
        return _result(future)
    except EngineDeadError:
        raise
    except AntiphonError as error:
        return error
    except Exception as error:
        failure = RequestFailed(f"{type(error).__name__}: {error}")
        failure.__cause__ = error
        return failure


def _one_each(
    params: SamplingParams | Sequence[SamplingParams | None] | None,
    sampling_params: SamplingParams | Sequence[SamplingParams | None] | None,
    count: int,
) -> Sequence[SamplingParams | None]:
    """The parameters of each of `count` prompts."""
    given = one_of(params, sampling_params)
    if given is None or isinstance(given, SamplingParams):
        return [given] * count
    if not isinstance(given, Sequence):
        raise SamplingError(
            f"params must be SamplingParams, or a list of them; not {type(given).__name__}"
        )
    for index, each in enumerate(given):
        if not isinstance(each, (SamplingParams, NoneType)):
            raise SamplingError(
                f"params must be SamplingParams, or a list of them; number {index} is {type(each).__name__}"
            )
    if len(given) != count:
        raise SamplingError(
            f"{len(given)} sampling parameters for {count} prompts: give one for all, or one each"
        )
    return given


async def _cancel_others() -> None:
    """Lets every task of this loop end."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _progress(total: int, wanted: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, unit="prompt", disable=None if wanted else True)
