"""The client of a realtime session, and its events."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from antiphon.serve.errors import ApiError

Send = Callable[[str], Awaitable[None]]
# Waits for so many seconds, and gives a frame's text or bytes. Raises ClientGone or ClientSilent.
NextMessage = Callable[[float], Awaitable[str | bytes]]


class ClientGone(Exception):
    """Nobody is there to send to. Raised by `Send`."""


class ClientSilent(Exception):
    """It has sent nothing for a while. Raised by the messages of a session, which may go on."""


def parsed(message: str | bytes) -> dict[str, Any]:
    if isinstance(message, bytes):
        raise ApiError(400, "events are JSON in text frames; sound is base64 in them, not binary")
    try:
        event = json.loads(message)
    except ValueError as error:
        raise ApiError(400, f"the event is no valid JSON: {error}") from None
    except RecursionError:
        raise ApiError(400, "the event has too many brackets within each other") from None
    if not isinstance(event, dict):
        raise ApiError(400, "an event must be an object")
    return event


def only(event: dict[str, Any], *names: str) -> dict[str, Any]:
    """`event`, which has these fields and no others. Raises ApiError."""
    for name in names:
        if name not in event:
            raise ApiError(400, f"'{name}' is missing", param=name)
    for name in event:
        if name not in (*names, "event_id"):
            raise ApiError(400, f"there is no field '{name[:100]}'", param=name, code="unknown")
    return event
