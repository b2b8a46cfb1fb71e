"""A server in one process: uvicorn, with the engines in its event loop."""

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, cast

import uvicorn

from antiphon.engine.async_engine import AsyncEngine
from antiphon.serve.app import make_app
from antiphon.serve.heads import BoundedHead
from antiphon.serve.service import OpenEngine, check_served
from antiphon.serve.settings import KEEP_ALIVE_SECONDS, ServerSettings
from antiphon.serve.signals import first_signal

logger = logging.getLogger(__name__)

REFUSING_SECONDS = 1  # for requests that outlived the drain to be told so


def opener(model: str, options: Mapping[str, Any]) -> OpenEngine:
    """Starts an engine of the server's own. It raises UnsupportedModelError, before it starts, for
    a model that no endpoint takes."""

    async def start() -> AsyncEngine:
        engine = AsyncEngine(model, **options)
        check_served(engine.model)
        return await engine.start()

    return start


class OneProcessServer(uvicorn.Server):
    """Engines open before it listens, and close when open requests have ended."""

    def __init__(self, settings: ServerSettings, openers: Mapping[str, OpenEngine]) -> None:
        self.app = make_app(settings, openers)
        config = uvicorn.Config(
            self.app,
            host=settings.host,
            port=settings.port,
            log_config=None,  # one line for each request comes from ConnectionMiddleware
            access_log=False,
            lifespan="on",
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            http=cast("type[BoundedHead]", partial(BoundedHead, settings.limits.idle_seconds)),
            ws_max_size=settings.limits.upload_bytes,
            timeout_graceful_shutdown=REFUSING_SECONDS,
        )
        super().__init__(config)
        self._drain_seconds = settings.limits.drain_seconds

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            logger.info("ready: %s", self.address)

    @property
    def address(self) -> str:
        """Where it listens; port 0 has become a free one."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The process ends as after any other work: uvicorn would raise the signal once more."""

        def stop() -> None:
            self.should_exit = True

        with first_signal(stop):
            yield

    async def shutdown(self, sockets: Any = None) -> None:
        """Listens on until open requests have ended: those who ask meanwhile are told to come
        again, and that the server is not ready."""
        service, seconds = self.app.state.service, self._drain_seconds
        service.begin_to_drain()
        logger.info("stopping: %d open requests have %g s", service.admission.open, seconds)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await service.admission.ended()
        await super().shutdown(sockets)


def serve(settings: ServerSettings, openers: Mapping[str, OpenEngine]) -> None:
    """Runs until SIGTERM or SIGINT; then ends open requests within `drain_seconds`."""
    asyncio.run(OneProcessServer(settings, openers).serve())
