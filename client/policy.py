"""How long to wait, and when to ask again."""

import math
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from antiphon.client.errors import ClientError, ConnectionFailed, ServerFailed, TooBusy, error_of

if TYPE_CHECKING:
    import httpx

LONGEST_PAUSE = 60.0  # seconds


@dataclass(frozen=True)
class Policy:
    """`timeout`: seconds for one attempt, from its connection to the end of the answer; in a stream
    from one text to the next. `connect_timeout`: for the connection alone. None: any number.
    `retries`: after status 429 or 503, a lost connection or a timeout, with pauses that double from
    `pause` seconds on, or as long as the server says."""

    timeout: float | None = 600.0
    connect_timeout: float | None = 10.0
    retries: int = 4
    pause: float = 0.5
    draw: random.Random = field(default_factory=random.Random, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises ValueError."""
        for name in ("timeout", "connect_timeout"):
            if (seconds := getattr(self, name)) is not None and not _is_seconds(seconds, above=0.0):
                raise ValueError(f"{name} must be seconds above 0, or None, not {seconds!r}")
        if not _is_seconds(self.pause):
            raise ValueError(f"pause must be seconds, 0 or more, not {self.pause!r}")
        check_count("retries", self.retries, 0)

    @property
    def limits(self) -> "httpx.Timeout":
        import httpx  # not above: it takes most of the time of an import

        return httpx.Timeout(self.timeout, connect=self.connect_timeout)

    def delay(self, attempt: int, error: ClientError, retry_after: float | None) -> float | None:
        """Seconds until the next attempt; None: there is none. `attempt` counts from 0."""
        temporary = isinstance(error, (TooBusy, ConnectionFailed))
        if not temporary or attempt >= self.retries:
            return None
        if retry_after is not None:
            return min(retry_after, LONGEST_PAUSE)
        # Drawn, so that clients that were turned away together do not come back together.
        return min(LONGEST_PAUSE, self.pause * 2**attempt) * self.draw.uniform(0.5, 1.0)


def check_count(name: str, value: object, least: int) -> None:
    """Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of {least} or more, not {value!r}")


def _is_seconds(value: object, above: float = -math.ulp(0.0)) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return above < value < math.inf


def base_of(server: str) -> str:
    """The address of the API: `http://host:8000` and `http://host:8000/v1` are the same. Raises
    ValueError for what is no address of a server."""
    if "://" not in server:
        server = f"http://{server}"
    try:
        parts = urlsplit(server)
        is_address = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, or a bracket that nothing closes
        is_address = False
    if not is_address:
        raise ValueError(f"{server!r:.200} is no address such as http://host:8000")
    server = server.rstrip("/")
    return server if server.endswith("/v1") else f"{server}/v1"


def headers(api_key: str | None) -> dict[str, str]:
    """Raises ValueError, which does not show the key. Blanks and line ends around it, as files and
    variables have them, are no part of it."""
    if api_key is None:
        return {}
    if not isinstance(api_key, str):
        raise ValueError(f"api_key must be a text, not {type(api_key).__name__}")
    api_key = api_key.strip()
    if not (api_key.isascii() and api_key.isprintable()):
        raise ValueError("api_key must be printable ASCII: a header holds nothing else")
    return {"authorization": f"Bearer {api_key}"} if api_key else {}


def lost(error: "httpx.TransportError") -> ConnectionFailed:
    return ConnectionFailed(f"no answer: {type(error).__name__}: {error}")


def failure(response: "httpx.Response") -> ClientError:
    """From an answer that is no success, and has been read."""
    request_id = response.headers.get("x-request-id")
    return error_of(response.status_code, response.content, request_id)


def retry_after(response: "httpx.Response") -> float | None:
    try:
        return max(0.0, float(response.headers["retry-after"]))
    except (KeyError, ValueError):
        return None


def event_error(event: dict[str, object]) -> ClientError | None:
    """Of an event that says that a stream has failed: in OpenAI's form, as a mere text, or as vLLM
    had it."""
    error = event if event.get("object") == "error" else event.get("error")
    if not error:
        return None
    return ServerFailed(str(error.get("message") if isinstance(error, dict) else error))
