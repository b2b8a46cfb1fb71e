"""`Client`: the same calls without `await`."""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any, Self, TypeVar

from antiphon.client.asynchronous import AsyncClient
from antiphon.client.batch import BatchItem, Progress
from antiphon.client.calls import Messages, Prompt
from antiphon.client.errors import ClientError
from antiphon.client.results import Completion, Model, Transcript
from antiphon.client.sound import Sound

T = TypeVar("T")
CLOSED = "the client was closed"
OWN_THREAD = "this is the client's own thread: a call would wait for itself"


class Client:
    """As `AsyncClient`, with the same arguments; may be called from any thread. Its requests run in
    an event loop of its own, in a thread that ends with `close`."""

    def __init__(self, server: str = "http://127.0.0.1:8000", **options: Any) -> None:
        self._async = AsyncClient(server, **options)
        # Held while a call is submitted: one behind the loop's end would wait for ever.
        self._gate, self._closed = threading.RLock(), False  # a finalizer may close meanwhile
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
        """Calls of other threads end with ClientError, as do later ones. May be called twice."""
        if threading.current_thread() is self._thread:
            raise ClientError(OWN_THREAD)
        with self._gate:
            is_first, self._closed = not self._closed, True
        if is_first:
            try:
                asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
            finally:
                self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        if is_first:
            self._loop.close()

    async def _end(self) -> None:
        """Cancels what runs in the loop, and waits for its end."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.get_running_loop().shutdown_asyncgens()
        await self._async.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        """Raises ClientError where nobody would answer, or when the client is closed meanwhile."""
        future = self._submitted(call)
        try:
            return future.result()
        except CancelledError:
            raise ClientError(CLOSED) from None
        except BaseException:  # Ctrl-C too
            future.cancel()
            raise

    def _submitted(self, call: Coroutine[Any, Any, T]) -> "Future[T]":
        is_own = threading.current_thread() is self._thread
        with self._gate:
            if not is_own and not self._closed:
                return asyncio.run_coroutine_threadsafe(call, self._loop)
        call.close()
        raise ClientError(OWN_THREAD if is_own else CLOSED)

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
            with suppress(ClientError):  # closed: so are `items`
                self._run(_closed(items))


async def _closed(items: AsyncGenerator[Any, None]) -> None:
    await items.aclose()
