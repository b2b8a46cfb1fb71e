"""The synchronous engine: an event loop in a thread of its own, and `AsyncEngine` in it."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar

from antiphon.actors.cluster import Workers
from antiphon.actors.engine import AsyncEngine
from antiphon.actors.outputs import RequestOutput, StreamDelta, Transcription
from antiphon.config.errors import AntiphonError, EngineDeadError
from antiphon.config.options import EngineConfig
from antiphon.config.sampling import SamplingParams
from antiphon.inputs.audio import AudioInput
from antiphon.inputs.prompts import Prompt

Item = TypeVar("Item")
T = TypeVar("T")

MAX_PREPARED = 2048  # prompts of one call that are held in memory at a time


class Engine:
    """`with Engine(model) as engine`. The synchronous face of `AsyncEngine`; safe to call from several threads."""

    def __init__(self, model: str, **options: Any) -> None:
        self._async = AsyncEngine(model, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="antiphon-engine", daemon=True)
        self._thread.start()
        try:
            self._run(self._async.start())
        except BaseException:
            self._stop_loop()
            raise

    @property
    def config(self) -> EngineConfig:
        return self._async.config

    @property
    def workers(self) -> Workers | None:
        return self._async.workers

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | None = None,
        use_tqdm: bool = True,
        *,
        priority: int = 0,
        timeout: float | None = None,
    ) -> list[RequestOutput]:
        """All prompts, in their order. One that fails has its error in its RequestOutput; the others are not touched."""
        many: list[Prompt] = [prompts] if isinstance(prompts, (str, Mapping)) else list(prompts)
        with _progress(len(many), use_tqdm) as progress:
            found = self._run(
                _each(
                    many, lambda prompt: self._async.generate(prompt, params, priority=priority, timeout=timeout), progress.update
                )
            )
        return [RequestOutput("", [], error=each) if isinstance(each, AntiphonError) else each for each in found]

    def stream(self, prompt: Prompt, params: SamplingParams | None = None, **options: Any) -> Iterator[StreamDelta]:
        """As `AsyncEngine.stream`."""
        deltas = self._async.stream(prompt, params, **options)
        try:
            while True:
                try:
                    yield self._run(anext(deltas))  # type: ignore[arg-type]
                except StopAsyncIteration:
                    return
        finally:
            self._run(deltas.aclose())  # type: ignore[attr-defined]

    def transcribe(self, audio: AudioInput, **options: Any) -> Transcription:
        """As `AsyncEngine.transcribe`."""
        return self._run(self._async.transcribe(audio, **options))

    def transcribe_all(self, recordings: Sequence[AudioInput], **options: Any) -> list[Transcription | AntiphonError]:
        """Many recordings at once, in their order; an error stands where one failed."""
        return self._run(_each(list(recordings), lambda audio: self._async.transcribe(audio, **options), lambda: None))

    def stats(self) -> dict[str, int]:
        """As `AsyncEngine.stats`."""
        return self._run(self._async.stats())

    def close(self) -> None:
        """Stops the workers; open requests end with EngineDeadError. May be called twice."""
        if self._loop.is_running():
            self._run(self._async.close())
            self._stop_loop()

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if not self._loop.is_running():
            coroutine.close()
            raise EngineDeadError("the engine was closed")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def _each(
    items: list[Item], call: Callable[[Item], Coroutine[Any, Any, T]], done: Callable[[], object]
) -> list[T | AntiphonError]:
    """`call` on every item, some at a time, in their order; an error stands where one failed. A dead engine ends it all."""
    gate = asyncio.Semaphore(MAX_PREPARED)

    async def one(item: Item) -> T | AntiphonError:
        async with gate:
            try:
                return await call(item)
            except EngineDeadError:
                raise
            except AntiphonError as error:
                return error
            finally:
                done()

    return await asyncio.gather(*(one(item) for item in items))


def _progress(total: int, wanted: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, unit="prompt", disable=None if wanted else True)
