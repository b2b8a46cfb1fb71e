"""`Client`: the same calls without `await`."""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Self, TypeVar

from antiphon.client.asynchronous import AsyncClient
from antiphon.client.batch import BatchItem, Progress
from antiphon.client.calls import Messages, Prompt
from antiphon.client.results import Completion, Model, Transcript
from antiphon.client.sound import Sound

T = TypeVar("T")


class Client:
    """As `AsyncClient`, with the same arguments; may be called from any thread. Its requests run in
    an event loop of its own, in a thread that ends with `close`."""

    def __init__(self, server: str = "http://127.0.0.1:8000", **options: Any) -> None:
        self._async = AsyncClient(server, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="antiphon-client", daemon=True
        )
        self._thread.start()

    def transcribe(self, sound: Sound, **options: Any) -> Transcript:
        return self._run(self._async.transcribe(sound, **options))

    def translate(self, sound: Sound, **options: Any) -> Transcript:
        return self._run(self._async.translate(sound, **options))

    def generate(self, prompt: Prompt, **options: Any) -> Completion:
        return self._run(self._async.generate(prompt, **options))

    def chat(self, messages: Messages, **options: Any) -> Completion:
        return self._run(self._async.chat(messages, **options))

    def models(self) -> list[Model]:
        return self._run(self._async.models())

    def stream_transcription(self, sound: Sound, **options: Any) -> Iterator[str]:
        return self._iterate(self._async.stream_transcription(sound, **options))

    def stream(self, prompt: Prompt, **options: Any) -> Iterator[str]:
        return self._iterate(self._async.stream(prompt, **options))

    def stream_chat(self, messages: Messages, **options: Any) -> Iterator[str]:
        return self._iterate(self._async.stream_chat(messages, **options))

    def batch(
        self,
        inputs: Iterable[Any],
        *,
        task: str = "transcribe",
        concurrency: int = 8,
        output: str | os.PathLike[str] | None = None,
        progress: Progress | bool | None = None,
        **options: Any,
    ) -> Iterator[BatchItem]:
        """As `AsyncClient.batch`. `progress` is called in the client's thread."""
        return self._iterate(
            self._async.batch(
                inputs,
                task=task,
                concurrency=concurrency,
                output=output,
                progress=progress,
                **options,
            )
        )

    def close(self) -> None:
        """May be called twice."""
        if self._loop.is_closed():
            return
        self._run(self._async.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        future: Future[T] = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return future.result()
        except BaseException:  # Ctrl-C too
            future.cancel()
            raise

    def _iterate(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        async def following() -> T:
            return await anext(items)

        try:
            while True:
                try:
                    yield self._run(following())
                except StopAsyncIteration:
                    return
        finally:
            if not self._loop.is_closed():
                self._run(_closed(items))


async def _closed(items: AsyncGenerator[Any, None]) -> None:
    await items.aclose()
