"""A server in one process: uvicorn, with the engines in its event loop."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import uvicorn

from antiphon.engine.async_engine import AsyncEngine
from antiphon.serve.app import make_app
from antiphon.serve.service import OpenEngine
from antiphon.serve.settings import ServerSettings

logger = logging.getLogger(__name__)


def opener(model: str, options: Mapping[str, Any]) -> OpenEngine:
    """Starts an engine of the server's own."""

    async def start() -> AsyncEngine:
        return await AsyncEngine(model, **options).start()

    return start


class OneProcessServer(uvicorn.Server):
    """`bound`: set once it listens."""

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
            timeout_graceful_shutdown=int(settings.limits.drain_seconds),
        )
        super().__init__(config)

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            logger.info("ready: %s", self.address)

    @property
    def address(self) -> str:
        """Where it listens; port 0 has become a free one."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def shutdown(self, sockets: Any = None) -> None:
        self.app.state.service.admission.draining = True
        await super().shutdown(sockets)


def serve(settings: ServerSettings, openers: Mapping[str, OpenEngine]) -> None:
    """Runs until SIGTERM or SIGINT; then ends open requests within `drain_seconds`."""
    asyncio.run(OneProcessServer(settings, openers).serve())
