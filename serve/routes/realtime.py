"""/v1/realtime: transcription over a WebSocket."""

import asyncio
from contextlib import ExitStack, suppress

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from antiphon.serve.client_events import ClientGone, ClientSilent
from antiphon.serve.errors import ApiError
from antiphon.serve.handshake import deny
from antiphon.serve.realtime import RealtimeSession
from antiphon.serve.service import Service

router = APIRouter()
SUBPROTOCOL = "realtime"  # that browsers name, beside their key
GOING_AWAY = 1001  # of WebSockets: the server ends it


@router.websocket("/v1/realtime")
async def realtime(websocket: WebSocket) -> None:
    """A transcription session. Query: `model`, and `intent`, which can only be transcription."""
    service: Service = websocket.app.state.service

    async def send(text: str) -> None:
        try:
            async with asyncio.timeout(service.limits.idle_seconds):
                await websocket.send_text(text)
        except (TimeoutError, WebSocketDisconnect):
            raise ClientGone from None

    async def next_message(seconds: float) -> str | bytes:
        try:
            async with asyncio.timeout(seconds):
                message = await websocket.receive()
        except TimeoutError:
            raise ClientSilent from None
        if message["type"] == "websocket.disconnect":
            raise ClientGone
        text: str | None = message.get("text")
        return message["bytes"] if text is None else text

    with ExitStack() as scope:
        try:
            if websocket.query_params.get("intent", "transcription") != "transcription":
                raise ApiError(400, "'intent' must be 'transcription'", param="intent")
            session = RealtimeSession(service, websocket.query_params.get("model"), send)
            scope.enter_context(service.sessions.admitted())
        except ApiError as error:
            await deny(websocket, error)
            return
        offered = websocket.scope.get("subprotocols", ())
        await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
        try:
            await session.run(next_message)
            with suppress(WebSocketDisconnect):  # the client may leave at the same time
                await websocket.close(GOING_AWAY, "idle")
        except* ClientGone:
            pass
