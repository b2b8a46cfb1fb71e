"""Around WebSockets: ids, keys, and pages of other sites."""

import logging
import time
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from antiphon.serve.errors import ApiError
from antiphon.serve.identity import HEADER, REQUEST_ID, request_id
from antiphon.serve.keys import ApiKeys, no_valid_key

logger = logging.getLogger(__name__)

KEY_PROTOCOL = "openai-insecure-api-key."  # a browser has no other place for its key
REFUSED = 1008  # of WebSockets: against the policy
FAILED = 500  # what a server answers to a handshake for an application that fails before


class Handshake:
    """What became of one. `status`: of HTTP; 0 before."""

    def __init__(self, send: Send) -> None:
        self._send, self.status = send, 0

    async def send(self, message: Message) -> None:
        if not self.status:
            kind = message["type"]
            if kind == "websocket.accept":
                self.status = 101
            elif kind == "websocket.http.response.start":
                self.status = message["status"]
            elif kind == "websocket.close":
                self.status = 403  # what a server makes of it that can send no other answer
        await self._send(message)


async def run_session(
    app: ASGIApp, keys: ApiKeys, scope: Scope, receive: Receive, handshake: Handshake
) -> None:
    """One WebSocket from its handshake to its end."""
    id_ = request_id(scope["headers"])
    token, began, key = REQUEST_ID.set(id_), time.monotonic(), "-"
    send = handshake.send
    websocket = WebSocket(scope, receive, send)
    try:
        _check_origin(websocket)
        if keys:
            key = _key_name(keys, websocket)
        await app(scope, receive, send)
    except ApiError as error:
        await deny(websocket, error)
    finally:
        handshake.status = handshake.status or FAILED
        seconds = time.monotonic() - began
        logger.info("WebSocket %s %d %.1f s %s", scope["path"], handshake.status, seconds, key)
        REQUEST_ID.reset(token)


def _check_origin(websocket: WebSocket) -> None:
    """Browsers let a page of any site open a WebSocket, and say which site it is. Raises ApiError
    unless it is this server's own."""
    origin = websocket.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != websocket.headers.get("host"):
        raise ApiError(403, f"pages of {origin[:100]} may not ask this server", code="origin")


def _key_name(keys: ApiKeys, websocket: WebSocket) -> str:
    sent = websocket.headers.get("authorization", "")
    for protocol in websocket.scope.get("subprotocols", ()):
        if protocol.startswith(KEY_PROTOCOL):
            sent = f"Bearer {protocol.removeprefix(KEY_PROTOCOL)}"
    name = keys.name(sent.encode())
    if name is None:
        raise no_valid_key()
    return name


async def deny(websocket: WebSocket, error: ApiError) -> None:
    """Refuses a handshake, by an HTTP answer where the server can send one."""
    if "websocket.http.response" in websocket.scope.get("extensions", {}):
        response = error.response()
        response.headers[HEADER.decode()] = REQUEST_ID.get()
        await websocket.send_denial_response(response)
    else:
        await websocket.close(REFUSED, error.message[:100])
