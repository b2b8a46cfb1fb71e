"""What the operator of a server chooses, beside the engines' own options."""

from dataclasses import dataclass, field, fields
from ipaddress import ip_address
from urllib.parse import urlsplit

from antiphon.config.errors import ConfigurationError
from antiphon.config.option_values import number, whole_number

MEBIBYTE = 1 << 20
# An idle connection stays open for longer than clients keep theirs (OpenAI's: 5 s). One that is
# closed while a client begins its next request in it loses that request.
KEEP_ALIVE_SECONDS = 75
LAST_PORT = (1 << 16) - 1
LOG_FORMATS = ("text", "json")


@dataclass(frozen=True)
class Limits:
    """What one request may cost. It is refused before that is spent."""

    upload_mib: float = 25.0  # of a request's body; OpenAI's limit
    audio_seconds: float = 4 * 3600.0  # of one recording
    prompts: int = 256  # of one request
    open_requests: int = 1024  # at work or waiting; more get status 429
    request_seconds: float = 600.0  # deadline of a request that names no shorter one
    idle_seconds: float = 60.0  # without a byte from a client that sends, or to one that reads
    drain_seconds: float = 30.0  # for open requests to end when the server stops

    def __post_init__(self) -> None:
        """Raises ConfigurationError."""
        for limit in fields(self):
            check = whole_number if limit.type is int else number
            check(limit.name, getattr(self, limit.name))

    @property
    def upload_bytes(self) -> int:
        return int(self.upload_mib * MEBIBYTE)


@dataclass(frozen=True)
class ServerSettings:
    """`api_keys`: clients must send one of them; none: anyone may ask."""

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    insecure: bool = False
    limits: Limits = Limits()
    otlp_traces_endpoint: str | None = None  # address of an OpenTelemetry collector
    log_format: str = "text"  # or "json"

    def __post_init__(self) -> None:
        """Raises ConfigurationError for a server that anyone on the network could use."""
        whole_number("port", self.port, 0, LAST_PORT)
        if self.log_format not in LOG_FORMATS:
            raise ConfigurationError(
                f"log_format must be one of {', '.join(LOG_FORMATS)}, not '{self.log_format}'"
            )
        if self.otlp_traces_endpoint is not None and not is_url(self.otlp_traces_endpoint):
            raise ConfigurationError(
                "otlp_traces_endpoint must be an address such as http://localhost:4318/v1/traces, "
                f"not {self.otlp_traces_endpoint!r:.100}"
            )
        for key in self.api_keys:
            check_key(key, "an API key")
        if not self.api_keys and not self.insecure and not is_loopback(self.host):
            raise ConfigurationError(
                f"on {self.host} anyone on the network could use the server: give --api-key or "
                "--api-key-file, or --insecure if that is intended"
            )

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


def check_key(key: str, name: str) -> None:
    """Raises ConfigurationError, which does not show the key."""
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigurationError(f"{name} must be printable ASCII without blanks")


def is_url(address: str) -> bool:
    """Whether something may answer at `address` over HTTP."""
    try:
        parts = urlsplit(address)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        return False


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach a server on `host`."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:  # a name
        return False
