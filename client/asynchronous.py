"""`AsyncClient`: calls with `await`."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

from antiphon.client import policy as rules
from antiphon.client.batch import Batch, BatchItem, Progress
from antiphon.client.calls import (
    Call,
    Messages,
    Prompt,
    chat_call,
    models_call,
    sound_call,
    text_call,
)
from antiphon.client.errors import ClientError, ConnectionFailed, ServerFailed
from antiphon.client.event_lines import new_text
from antiphon.client.policy import Policy
from antiphon.client.results import Completion, Model, Transcript
from antiphon.client.sound import Sound

if TYPE_CHECKING:
    import httpx

Result = TypeVar("Result")


class AsyncClient:
    """`async with AsyncClient("http://host:8000") as client`.

    `model`: for calls that name none; a server with one model needs none. Calls raise ClientError.
    Options of calls are the fields of the API: language, prompt, temperature, max_tokens, ...
    """

    def __init__(
        self,
        server: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        model: str | None = None,
        policy: Policy | None = None,
        transport: "httpx.AsyncBaseTransport | None" = None,
    ) -> None:
        import httpx  # as in `Policy.limits`

        self.model, self.policy = model, policy or Policy()
        self._http = httpx.AsyncClient(
            base_url=rules.base_of(server),
            headers=rules.headers(api_key),
            timeout=self.policy.limits,
            limits=httpx.Limits(max_connections=None),
            transport=transport,
        )
        self._lost = httpx.TransportError

    async def transcribe(self, sound: Sound, **options: Any) -> Transcript:
        """A recording's text, with times."""
        return await self._result(sound_call("transcriptions", sound, self._with_model(options)))

    async def translate(self, sound: Sound, **options: Any) -> Transcript:
        """A recording's text in English."""
        return await self._result(sound_call("translations", sound, self._with_model(options)))

    async def generate(self, prompt: Prompt, **options: Any) -> Completion:
        """Text for a prompt."""
        return await self._result(text_call(prompt, self._with_model(options)))

    async def chat(self, messages: Messages, **options: Any) -> Completion:
        """The answer to a message, or to several."""
        return await self._result(chat_call(messages, self._with_model(options)))

    async def models(self) -> list[Model]:
        return await self._result(models_call())

    async def stream_transcription(self, sound: Sound, **options: Any) -> AsyncGenerator[str, None]:
        """A recording's text as it is made."""
        call = sound_call("transcriptions", sound, self._with_model(options), stream=True)
        async with aclosing(self._texts(call)) as texts:
            async for text in texts:
                yield text

    async def stream(self, prompt: Prompt, **options: Any) -> AsyncGenerator[str, None]:
        """A prompt's text as it is made."""
        options = {**self._with_model(options), "stream": True}
        async with aclosing(self._texts(text_call(prompt, options))) as texts:
            async for text in texts:
                yield text

    async def stream_chat(self, messages: Messages, **options: Any) -> AsyncGenerator[str, None]:
        """An answer's text as it is made."""
        options = {**self._with_model(options), "stream": True}
        async with aclosing(self._texts(chat_call(messages, options))) as texts:
            async for text in texts:
                yield text

    async def batch(
        self,
        inputs: Iterable[Any],
        *,
        task: str = "transcribe",
        concurrency: int = 8,
        output: str | os.PathLike[str] | None = None,
        progress: Progress | bool | None = None,
        **options: Any,
    ) -> AsyncGenerator[BatchItem, None]:
        """Each input's result as it ends, at most `concurrency` at a time.

        `task`: transcribe, translate, generate or chat. `output`: a file that gets one line of JSON
        for each result; requests that have theirs in it are not sent again: the same content of an
        input, with the same number, task, model and options. `progress`: True draws a bar; a
        function is called with the numbers of inputs that are done and in all (None for an
        iterator). An input that fails has its error in its item, and the others go on.
        """
        asks: dict[str, Callable[[Any, dict[str, Any]], Call[Any]]] = {
            "transcribe": partial(sound_call, "transcriptions"),
            "translate": partial(sound_call, "translations"),
            "generate": text_call,
            "chat": chat_call,
        }
        if task not in asks:
            raise ValueError(f"task must be one of {', '.join(asks)}, not {task!r}")
        batch = Batch(inputs, concurrency, output, progress)
        fields = self._with_model(options)
        results = batch.run(lambda value: asks[task](value, fields), self._result)
        async with aclosing(results) as items:
            async for item in items:
                yield item

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ------------------------------------------------------------------ requests

    def _with_model(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"model": self.model, **options}

    async def _result(self, call: Call[Result]) -> Result:
        attempt = 0
        while True:
            retry_after = None
            try:
                async with asyncio.timeout(self.policy.timeout):
                    response = await self._http.request(call.method, call.path, **call.arguments())
                if response.is_success:
                    return call.result(response.text)
                error: ClientError = rules.failure(response)
                retry_after = rules.retry_after(response)
            except self._lost as lost:
                error = rules.lost(lost)
            except TimeoutError:
                error = ConnectionFailed(f"no answer within {self.policy.timeout} seconds")
            delay = self.policy.delay(attempt, error, retry_after)
            if delay is None:
                raise error
            await asyncio.sleep(delay)
            attempt += 1

    async def _texts(self, call: Call[Any]) -> AsyncGenerator[str, None]:
        """New texts of a stream. A stream that has begun is not begun again."""
        attempt, begun = 0, False
        while True:
            retry_after = None
            try:
                async with self._http.stream(call.method, call.path, **call.arguments()) as reply:
                    if reply.is_success:
                        has_events = False
                        async for line in reply.aiter_lines():
                            begun = True
                            text = new_text(line)
                            has_events |= text is not None
                            if text:
                                yield text
                        if has_events:
                            return
                        raise ServerFailed(f"the answer to {call.path} is no stream of events")
                    await reply.aread()
                    error: ClientError = rules.failure(reply)
                    retry_after = rules.retry_after(reply)
            except self._lost as lost:
                error = rules.lost(lost)
            delay = None if begun else self.policy.delay(attempt, error, retry_after)
            if delay is None:
                raise error
            await asyncio.sleep(delay)
            attempt += 1
