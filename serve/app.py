"""The FastAPI application."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from fastapi import FastAPI

from antiphon import __version__
from antiphon.serve.connection import ConnectionMiddleware
from antiphon.serve.errors import add_handlers
from antiphon.serve.keys import ApiKeys
from antiphon.serve.routes import audio, chat, completions, page, server
from antiphon.serve.service import OpenEngine, Service
from antiphon.serve.settings import ServerSettings

ROUTERS = (audio.router, chat.router, completions.router, server.router, page.router)


def make_app(
    settings: ServerSettings, openers: Mapping[str, OpenEngine], *, adds_id: bool = True
) -> FastAPI:
    """Its engines open when the application starts, and close when it stops. `openers`: how to get
    each, by the name that clients send as `model`. `adds_id`: see `ConnectionMiddleware`."""
    service = Service(settings, openers)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        async with service:
            yield

    app = FastAPI(
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
        adds_id=adds_id,
    )
    add_handlers(app)
    for router in ROUTERS:
        app.include_router(router)
    return app
