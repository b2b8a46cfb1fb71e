"""A server with OpenAI's API that answers after known delays and counts what it is asked."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

FIRST, NEXT = 0.06, 0.02  # seconds until the first part of a stream, and between two
PARTS = ["one ", "two ", "three ", "four"]
SECONDS = 60.0


class DelayedServer:
    """`bodies`: what came. `most_open`: requests at the same time. `refuses`: every so many-th
    request is answered 429."""

    def __init__(self, refuses: int = 0) -> None:
        self.bodies: list[Any] = []
        self.arrived: list[float] = []
        self.open = self.most_open = 0
        self._refuses = refuses
        self.app = FastAPI()
        self.app.get("/v1/models")(self._models)
        self.app.get("/metrics")(self._metrics)
        self.app.post("/v1/chat/completions")(self._chat)
        self.app.post("/v1/audio/transcriptions")(self._transcribe)

    async def _models(self) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "only"}]})

    async def _metrics(self) -> Response:
        """Each request has waited for 0.1 s so far as this page says."""
        name, count = "vllm:request_queue_time_seconds", len(self.bodies)
        lines = [
            f"# TYPE {name} histogram", f'{name}_bucket{{le="0.05"}} 0',
            f'{name}_bucket{{le="0.15"}} {count}', f'{name}_bucket{{le="+Inf"}} {count}',
            f"{name}_sum {count / 10}", f"{name}_count {count}", "",
        ]  # fmt: skip
        return PlainTextResponse("\n".join(lines))

    def _refused(self, body: Any) -> Response | None:
        self.bodies.append(body)
        self.arrived.append(time.perf_counter())
        if self._refuses and len(self.bodies) % self._refuses == 0:
            return JSONResponse({"error": {"message": "too busy"}}, 429)
        return None

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            yield
        finally:
            self.open -= 1

    async def _chat(self, request: Request) -> Response:
        if (refusal := self._refused(await request.json())) is not None:
            return refusal
        return StreamingResponse(self._events(), media_type="text/event-stream")

    async def _events(self) -> AsyncIterator[str]:
        with self._counted():
            await asyncio.sleep(FIRST)
            for part in PARTS:
                yield _event({"choices": [{"index": 0, "delta": {"content": part}}]})
                await asyncio.sleep(NEXT)
            yield _event({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 4}})
            yield "data: [DONE]\n\n"

    async def _transcribe(self, request: Request) -> Response:
        async with request.form() as form:
            refusal = self._refused({key: value for key, value in form.items() if key != "file"})
        if refusal is not None:
            return refusal
        with self._counted():
            await asyncio.sleep(FIRST)
        return JSONResponse({"text": "Hello, new world!"})


def _event(content: Any) -> str:
    return f"data: {json.dumps(content)}\n\n"


@contextmanager
def delayed_server(refuses: int = 0) -> Iterator[tuple[DelayedServer, str]]:
    """The server and its address."""
    fake = DelayedServer(refuses)
    server = uvicorn.Server(
        uvicorn.Config(fake.app, port=0, log_config=None, lifespan="off", access_log=False)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + SECONDS
    while not server.started:
        assert thread.is_alive()
        assert time.monotonic() < end
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield fake, f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(SECONDS)
        assert not thread.is_alive()
