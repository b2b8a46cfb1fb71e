"""What surrounds every endpoint, with an application and a client of a few lines."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from antiphon.serve.admission import Admission
from antiphon.serve.app import ROUTERS, make_app
from antiphon.serve.connection import ConnectionMiddleware
from antiphon.serve.events import EventStream
from antiphon.serve.keys import ApiKeys
from antiphon.serve.metrics import Metrics
from antiphon.serve.settings import Limits, ServerSettings

SCOPE = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": []}


def test_a_client_that_stops_reading_ends_its_request(caplog: pytest.LogCaptureFixture) -> None:
    closed, sent = [], []

    async def events() -> AsyncGenerator[dict[str, Any], None]:
        try:
            while True:
                yield {"text": "more"}
        finally:
            closed.append(True)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        stream = await EventStream.begun(events(), done=True)
        await stream(scope, receive, send)

    bodies = [{"type": "http.request", "body": b"{}", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if bodies:
            return bodies.pop()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) > 3:
            await asyncio.Event().wait()  # its window is full

    admission = Admission(1)
    server = ConnectionMiddleware(
        app, ApiKeys(()), Limits(idle_seconds=0.05), admission, Metrics(admission)
    )
    with caplog.at_level(logging.INFO, "antiphon.serve.connection"):
        asyncio.run(asyncio.wait_for(server(SCOPE, receive, send), 10))  # type: ignore[arg-type]
    assert closed == [True]
    assert (len(sent), admission.open) == (4, 0)
    assert "the client stopped reading" in caplog.text


def test_a_request_is_counted_and_not_open_once_its_answer_is_sent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever the endpoint still does then: its client may send the next at once."""
    caplog.set_level(logging.INFO, "antiphon.serve.connection")
    admission, opened, logged = Admission(1), [], []
    metrics = Metrics(admission)
    counted = b'requests_total{path="other",status="200"} 1.0'

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for more in (True, False):
            await send({"type": "http.response.body", "body": b"x", "more_body": more})
            opened.append((admission.open, counted in metrics.text()))
            logged.append(len(caplog.records))
        await asyncio.sleep(0)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: Any) -> None:
        assert admission.open == 1  # until the last byte is handed over

    server = ConnectionMiddleware(app, ApiKeys(()), Limits(), admission, metrics)
    asyncio.run(asyncio.wait_for(server(SCOPE, receive, send), 10))  # type: ignore[arg-type]
    assert (opened, admission.open) == ([(1, False), (0, True)], 0)
    assert logged == [0, 1]
    assert len(caplog.records) == 1, "once"
    assert counted in metrics.text()


@pytest.mark.parametrize(
    ("refused", "method", "path", "wanted"),
    [
        ("key", "GET", "/v1/models/a/b", "/v1/models/{name:path}"),
        ("key", "DELETE", "/v1/completions", "/v1/completions"),
        ("key", "GET", "/nowhere", "other"),
        ("size", "POST", "/v1/audio/transcriptions", "/v1/audio/transcriptions"),
        ("full", "POST", "/v1/completions", "/v1/completions"),
        ("full", "POST", "/nowhere", "other"),
        ("draining", "POST", "/v1/chat/completions", "/v1/chat/completions"),
    ],
)
def test_refusals_are_counted_for_their_endpoint(
    refused: str, method: str, path: str, wanted: str
) -> None:
    """Though they never reach it."""
    admission = Admission(0 if refused == "full" else 1)
    admission.draining = refused == "draining"
    metrics = Metrics(admission)
    app = make_app(ServerSettings(), {})

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: Any) -> None:
        pass

    server = ConnectionMiddleware(
        app, ApiKeys(("secret",) if refused == "key" else ()), Limits(), admission, metrics,
        routes=[route for router in ROUTERS for route in router.routes],
    )  # fmt: skip
    headers = [(b"content-length", b"99999999999")] if refused == "size" else []
    scope: Any = {**SCOPE, "method": method, "path": path, "headers": headers}
    asyncio.run(server(scope, receive, send))
    status = {"key": 401, "size": 413, "full": 429, "draining": 503}[refused]
    counted = f'requests_total{{path="{wanted}",status="{status}"}} 1.0'
    assert counted.encode() in metrics.text()
