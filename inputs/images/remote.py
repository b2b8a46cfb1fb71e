"""Images behind http(s) addresses, within limits of size, time and redirects.

A name is looked up once, and the connection goes to the address that was checked: a name server
that answers otherwise the second time can't lead into a private network.
"""

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from urllib.parse import SplitResult, urljoin, urlsplit

from antiphon.config.errors import ImageError
from antiphon.inputs.images.limits import Fetching

CHUNK = 64 << 10
REDIRECTS = (301, 302, 303, 307, 308)
LONGEST_SHOWN = 200


def fetch(url: str, fetching: Fetching) -> bytes:
    """The content behind `url`. Raises ImageError, with the limit that it passed."""
    shown = url if len(url) <= LONGEST_SHOWN else f"{url[:LONGEST_SHOWN]}…"
    if not fetching.hosts:
        raise ImageError(
            f"{shown}: addresses are not fetched here (allowed_media_domains names no host); give "
            "the bytes behind it"
        )
    deadline = time.monotonic() + fetching.seconds
    try:
        for _ in range(fetching.redirects + 1):
            content, target = _get(url, fetching, deadline)
            if target is None:
                return content
            url = urljoin(url, target)
    except (OSError, http.client.HTTPException, UnicodeError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        if isinstance(error, TimeoutError) or time.monotonic() >= deadline:
            message = f"{shown}: not fetched within {fetching.seconds:g} s"
            raise ImageError(message) from None
        raise ImageError(f"{shown}: cannot be fetched ({error})") from error
    raise ImageError(f"{shown}: more than {fetching.redirects} redirects")


def _get(url: str, fetching: Fetching, deadline: float) -> tuple[bytes, str | None]:
    """The content, or where another address is to be asked for it."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ImageError(f"{url[:LONGEST_SHOWN]}: only http and https addresses are fetched")
    if not fetching.allows(parts.hostname):
        raise ImageError(
            f"{parts.hostname[:LONGEST_SHOWN]}: not among the hosts that images are fetched from "
            "(allowed_media_domains)"
        )
    with closing(_connect(parts, fetching, deadline)) as sock, _ended_at(deadline, sock):
        if isinstance(sock, ssl.SSLSocket):
            sock.do_handshake()
        connection = http.client.HTTPConnection(parts.hostname, _port(parts))
        connection.sock = sock
        with closing(connection):
            return _answer(connection, parts, fetching, deadline)


def _answer(
    connection: http.client.HTTPConnection, parts: SplitResult, fetching: Fetching, deadline: float
) -> tuple[bytes, str | None]:
    path = parts.path or "/"
    connection.request("GET", f"{path}?{parts.query}" if parts.query else path)
    with closing(connection.getresponse()) as response:
        if response.status in REDIRECTS and (target := response.getheader("Location")):
            return b"", target
        if response.status != 200:
            raise ImageError(
                f"{parts.geturl()[:LONGEST_SHOWN]}: the server answers {response.status} "
                f"{response.reason}"
            )
        return _read(response, fetching, deadline), None


def _read(response: http.client.HTTPResponse, fetching: Fetching, deadline: float) -> bytes:
    """All of it, unless it is too long or takes too long."""
    content = bytearray()
    while True:
        chunk = response.read1(CHUNK)
        _left(deadline)
        if not chunk:
            return bytes(content)
        content += chunk
        if len(content) > fetching.max_bytes:
            raise ImageError(f"the image is over {fetching.max_bytes} bytes, the limit for one")


@contextmanager
def _ended_at(deadline: float, sock: socket.socket) -> Iterator[None]:
    """Whoever waits for `sock` at the deadline waits no longer: its own time limit is for a single
    wait, and one answer may take any number of them."""
    timer = threading.Timer(_left(deadline), _shut, [sock])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):  # it is closed already
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not TLS's: another thread is using that


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _connect(parts: SplitResult, fetching: Fetching, deadline: float) -> socket.socket:
    """A connection to an address of the host that may be asked; of https before its handshake."""
    assert parts.hostname is not None
    addresses = _looked_up(parts.hostname, _port(parts), deadline)
    if not fetching.private:
        for address in addresses:
            check_public(parts.hostname, address)
    raw = socket.create_connection((addresses[0], _port(parts)), timeout=_left(deadline))
    if parts.scheme == "http":
        return raw
    try:
        return ssl.create_default_context().wrap_socket(
            raw, server_hostname=parts.hostname, do_handshake_on_connect=False
        )
    except BaseException:
        raw.close()
        raise


def _looked_up(host: str, port: int, deadline: float) -> list[str]:
    """The addresses of a name. In a thread, which is left behind at the deadline."""
    answer: Future[list[str]] = Future()

    def look_up() -> None:
        try:
            entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answer.set_result([str(entry[4][0]) for entry in entries])
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=look_up, name="antiphon-names", daemon=True).start()
    return answer.result(_left(deadline))


def check_public(host: str, address: str) -> None:
    """Raises ImageError for an address of this machine, of a private network, or of a link."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    ip = mapped or ip
    if not ip.is_global or ip.is_multicast:
        raise ImageError(
            f"{host} is {address}, which is no public address: such are fetched only with "
            "allow_private_media"
        )


def _left(deadline: float) -> float:
    """Seconds. Raises TimeoutError where there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
