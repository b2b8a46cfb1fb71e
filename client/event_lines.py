"""Server-sent events: from lines to objects."""

import json
from typing import Any

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
    if (error := event_error(event)) is not None:
        raise error
    return dict(event)
