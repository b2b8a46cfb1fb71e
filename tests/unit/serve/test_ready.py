"""/health and /ready of a server of two engines, of which one ends."""

import asyncio
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from antiphon.config.errors import EngineDeadError
from antiphon.serve.app import make_app
from antiphon.serve.service import OpenEngine
from antiphon.serve.settings import ServerSettings


class Engine:
    """As much of an engine as a server opens, looks at and closes."""

    def __init__(self) -> None:
        self.dead: str | None = None
        self.requests = SimpleNamespace(on_end=None)

    def check_caller(self) -> None:
        if self.dead is not None:
            raise EngineDeadError(self.dead)

    async def close(self) -> None:
        pass


def opener(engine: Engine) -> OpenEngine:
    async def start() -> Any:
        return engine

    return start


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_one_engine_that_has_ended(path: str) -> None:
    engines = {"hears": Engine(), "reads": Engine()}
    app = make_app(ServerSettings(), {name: opener(engine) for name, engine in engines.items()})

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            replies = [await client.get("/ready")]
            async with app.state.service:
                replies.append(await client.get(path))
                engines["reads"].dead = "its worker ended"
                replies.append(await client.get(path))
                engines["reads"].dead = None
                app.state.service.begin_to_drain()
                replies.append(await client.get("/ready"))
        return replies

    starting, working, ended, stopping = asyncio.run(ask())
    assert [reply.status_code for reply in (starting, working)] == [503, 200]
    assert ended.status_code == 503
    assert ended.json()["error"] == {
        "message": "reads: its worker ended", "type": "server_error", "param": None,
        "code": "engine_unavailable",
    }  # fmt: skip
    assert ended.headers["retry-after"] == "1"
    assert (stopping.status_code, stopping.json()["error"]["code"]) == (503, "not_ready")
