"""The FastAPI application."""

import asyncio
import logging
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from antiphon import __version__
from antiphon.serve.connection import ConnectionMiddleware
from antiphon.serve.errors import add_handlers
from antiphon.serve.keys import ApiKeys
from antiphon.serve.load import keep_noting
from antiphon.serve.metric_sinks import MetricSink
from antiphon.serve.routes import audio, chat, completions, page, realtime, server
from antiphon.serve.service import OpenEngine, Service
from antiphon.serve.settings import ServerSettings
from antiphon.serve.traces import Traces, otlp_exporter

logger = logging.getLogger(__name__)

ROUTERS = (
    audio.router,
    chat.router,
    completions.router,
    server.router,
    page.router,
    realtime.router,
)


def make_app(
    settings: ServerSettings,
    openers: Mapping[str, OpenEngine],
    *,
    adds_id: bool = True,
    sinks: Sequence[MetricSink] = (),
    stop: Callable[[], Awaitable[None]] | None = None,
) -> FastAPI:
    """Its engines open when the application starts, and close when it stops. `openers`: how to get
    each, by the name that clients send as `model`. `adds_id`: see `ConnectionMiddleware`. `sinks`:
    where measurements go beside /metrics. `stop`: returns when the server is to take no new
    requests; None: whoever runs it says so. Raises ConfigurationError."""
    endpoint = settings.otlp_traces_endpoint
    traces = None if endpoint is None else Traces(otlp_exporter(endpoint))
    service = Service(settings, openers, sinks, traces)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        try:
            async with service:
                works = [keep_noting(service)] if sinks else []
                if stop is not None:
                    works.append(_drain_after(stop, service))
                async with _together(works):
                    yield
        finally:
            if traces is not None:
                traces.close()

    app = Application(
        title="Antiphon",
        version=__version__,
        description="OpenAI's API for encoder/decoder models.",
        lifespan=life,
        docs_url=None,  # its page loads scripts from another site
        redoc_url=None,
    )
    app.state.service = service
    app.add_middleware(
        ConnectionMiddleware,
        keys=ApiKeys(settings.api_keys),
        limits=settings.limits,
        admission=service.admission,
        metrics=service.metrics,
        adds_id=adds_id,
        traces=traces,
        routes=[route for router in ROUTERS for route in router.routes],
    )
    add_handlers(app)
    for router in ROUTERS:
        app.include_router(router)
    return app


class Application(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """Without the answers that FastAPI would give to wrong values: here these are 400."""
        if self.openapi_schema is None:
            document = super().openapi()
            for operations in document["paths"].values():
                for operation in operations.values():
                    operation["responses"].pop("422", None)
            for name in ("HTTPValidationError", "ValidationError"):
                document["components"]["schemas"].pop(name, None)
        return super().openapi()


@asynccontextmanager
async def _together(works: Iterable[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Runs `works` until the end of the scope, however it ends."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _drain_after(stop: Callable[[], Awaitable[None]], service: Service) -> None:
    try:
        await stop()
    except Exception:
        logger.exception("the server was not told when to stop: it takes requests until its end")
    else:
        service.begin_to_drain()
