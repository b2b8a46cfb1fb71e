"""Addresses of Ray clusters: whether one answers, and how a process is let in."""

import os
import socket
from pathlib import Path

from antiphon.config.errors import ConfigurationError

CONNECT_SECONDS = 5.0  # for a cluster's port to answer
ANSWER_SECONDS = 3.0  # for what listens there to say its first bytes
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS_FRAME = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # without settings


def check_same_cluster(address: str, joined: str) -> None:
    """Raises ConfigurationError if `address` is not the cluster that this process has joined: a
    process is in one cluster at a time."""
    if address in ("auto", "local"):
        return
    check_reachable(address)
    host, _, port = address.removeprefix("ray://").rpartition(":")
    own_host, _, own_port = joined.rpartition(":")
    same_host = socket.gethostbyname(host.strip("[]")) in (
        socket.gethostbyname(own_host),
        "127.0.0.1",
    )
    if port != own_port or not same_host:
        raise ConfigurationError(
            f"address={address!r}, but this process is in the Ray cluster at {joined}: "
            "leave out address, or use another process"
        )


def check_reachable(address: str) -> None:
    """Raises ConfigurationError if no cluster answers. Ray itself would try for minutes, with lines
    of its C++ side on stderr, or raise a ValueError."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ConfigurationError(
            f"no Ray cluster at {address!r}: give HOST:PORT, as `ray start --head` prints it, "
            "or 'auto' for one on this machine"
        )
    try:
        peer = (host.strip("[]"), int(port))
        with socket.create_connection(peer, timeout=CONNECT_SECONDS) as connection:
            speaks = os.environ.get("RAY_USE_TLS", "0") != "0" or _speaks_grpc(connection)
    except (OSError, OverflowError) as error:
        raise ConfigurationError(f"no Ray cluster at {address}: {error}") from None
    if not speaks:
        raise ConfigurationError(
            f"no Ray cluster at {address}: something else listens there. Give HOST:PORT, as "
            "`ray start --head` prints it (port 6379 unless chosen otherwise)"
        )


def _speaks_grpc(connection: socket.socket) -> bool:
    """Whether the other side answers as a gRPC server does, which every Ray cluster has: it begins
    with a SETTINGS frame (RFC 9113, 3.4). Waits up to ANSWER_SECONDS."""
    connection.settimeout(ANSWER_SECONDS)
    try:
        connection.sendall(HTTP2_PREFACE + SETTINGS_FRAME)
        with connection.makefile("rb") as answer:
            head = answer.read(len(SETTINGS_FRAME))
    except OSError:  # it said nothing, or broke off
        return False
    # Behind the three bytes of its length: type 4, flags 0, stream 0.
    return len(head) == len(SETTINGS_FRAME) and head[3:] == SETTINGS_FRAME[3:]


def use_saved_token() -> None:
    """Turns token authentication on if a token is saved, as `ray start` does. Ray saves one on
    every machine where it runs, but does not use it when joining by address."""
    if "RAY_AUTH_MODE" in os.environ:
        return
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    if "RAY_AUTH_TOKEN" in os.environ or path.exists():
        from ray._raylet import Config  # type: ignore[attr-defined]

        os.environ["RAY_AUTH_MODE"] = "token"
        Config.initialize("")  # reads the variable again: the import of Ray has read it before
