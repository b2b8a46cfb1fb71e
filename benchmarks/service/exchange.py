"""One request to a server and its answer, with the times at which its parts came."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from antiphon.benchmarks.service.asks import Ask
from antiphon.client import policy
from antiphon.client.calls import delta_of
from antiphon.client.errors import ClientError
from antiphon.client.event_lines import parsed


@dataclass
class Answer:
    """Times in seconds, of one clock. `texts_at`: when each part of a stream came. `error`: why
    there is no text."""

    ask: Ask
    began: float
    ended: float = 0.0
    texts_at: list[float] = field(default_factory=list)
    text: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    error: str | None = None

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def first(self) -> float | None:
        """Seconds to the first text of a stream."""
        return self.texts_at[0] - self.began if self.texts_at else None

    @property
    def per_token(self) -> float | None:
        """Mean seconds between two tokens of a stream; the first one does not count."""
        if not self.texts_at or self.output_tokens < 2:
            return None
        return (self.texts_at[-1] - self.texts_at[0]) / (self.output_tokens - 1)

    @property
    def gaps(self) -> list[float]:
        """Seconds between two parts of a stream."""
        return [
            after - before for before, after in zip(self.texts_at, self.texts_at[1:], strict=False)
        ]


class Server:
    """A server under load. `model`: for requests that name none; None: the server's only one."""

    def __init__(
        self, address: str, api_key: str | None, model: str | None, timeout: float
    ) -> None:
        self.model = model
        self._http = httpx.AsyncClient(
            base_url=policy.base_of(address),
            headers=policy.headers(api_key),
            timeout=httpx.Timeout(timeout, connect=min(timeout, 30.0)),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def models(self) -> list[dict[str, Any]]:
        """What /v1/models lists. Raises ClientError."""
        try:
            reply = await self._http.get("models")
        except httpx.TransportError as error:
            raise policy.lost(error) from None
        if not reply.is_success:
            raise policy.failure(reply)
        entries: list[dict[str, Any]] = reply.json()["data"]
        return entries

    async def counters(self) -> str | None:
        """What /metrics says; None where there is no such page."""
        try:
            reply = await self._http.get(self._http.base_url.join("../metrics"))
        except httpx.TransportError:
            return None
        return reply.text if reply.is_success else None

    async def ask(self, ask: Ask) -> Answer:
        """The answer, whatever it is: what goes wrong is its `error`."""
        request = self._http.build_request(ask.call.method, ask.call.path, **self._body(ask))
        await request.aread()  # else a form is put together, and sent in pieces, on the clock
        answer = Answer(ask, time.perf_counter())
        try:
            response = await self._http.send(request, stream=True)
            try:
                await self._read(response, answer)
            finally:
                await response.aclose()
        except httpx.TransportError as error:
            answer.error = str(policy.lost(error))
        except ClientError as error:
            answer.error = str(error)
        except (KeyError, TypeError, ValueError) as error:
            answer.error = f"not understood: {type(error).__name__}: {error}"
        answer.ended = time.perf_counter()
        return answer

    def _body(self, ask: Ask) -> dict[str, Any]:
        body = ask.call.arguments()
        for part in ("json", "data"):
            if part in body and self.model is not None:
                body[part] = {"model": self.model, **body[part]}
        return body

    async def _read(self, response: httpx.Response, answer: Answer) -> None:
        if not response.is_success:
            await response.aread()
            raise policy.failure(response)
        if "event-stream" in response.headers.get("content-type", ""):
            await self._read_stream(response, answer)
            return
        reply = httpx.Response(200, content=await response.aread()).json()
        choices = reply.get("choices")
        if choices is None:
            answer.text = reply["text"]
        else:
            first = choices[0]
            answer.text = first["text"] if "text" in first else first["message"]["content"] or ""
        _count(answer, reply.get("usage"))

    async def _read_stream(self, response: httpx.Response, answer: Answer) -> None:
        texts = []
        async for line in response.aiter_lines():
            if (event := parsed(line)) is None:
                continue
            if text := delta_of(event):
                answer.texts_at.append(time.perf_counter())
                texts.append(text)
            _count(answer, event.get("usage"))
        answer.text = "".join(texts)
        answer.output_tokens = answer.output_tokens or len(texts)


def _count(answer: Answer, usage: Mapping[str, Any] | None) -> None:
    """Tokens as the server bills them, under the names of both of OpenAI's APIs."""
    if usage:
        answer.input_tokens = usage.get("prompt_tokens", usage.get("input_tokens", 0))
        answer.output_tokens = usage.get("completion_tokens", usage.get("output_tokens", 0))
