"""Server-sent events: from lines to objects."""

import json
from typing import Any

from antiphon.client.calls import delta_of
from antiphon.client.errors import ServerFailed
from antiphon.client.policy import event_error


def parsed(line: str) -> dict[str, Any] | None:
    """The object of a line; None for lines without one, and for the end. Raises ClientError for an
    event that is an error."""
    if not line.startswith("data:"):
        return None
    content = line[5:].strip()
    if content == "[DONE]" or not content:
        return None
    try:
        event = json.loads(content)
    except ValueError:
        raise ServerFailed(f"an event of the stream is no JSON: {content[:100]}") from None
    if not isinstance(event, dict):
        raise _no_event(content)
    if (error := event_error(event)) is not None:
        raise error
    return event


def new_text(line: str) -> str | None:
    """That an event in this line brings; None where there is no event. Raises ClientError."""
    event = parsed(line)
    try:
        return ("" if line.startswith("data:") else None) if event is None else delta_of(event)
    except (LookupError, TypeError, AttributeError):
        raise _no_event(line) from None


def _no_event(content: str) -> ServerFailed:
    return ServerFailed(f"an event of the stream is none of OpenAI's API: {content[:100]}")
