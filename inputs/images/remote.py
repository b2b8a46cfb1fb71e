"""Images behind http(s) addresses, within limits of size, time and redirects.

A name is looked up once, and the connection goes to the address that was checked: a name server
that answers otherwise the second time can't lead into a private network.
"""

import http.client
import ipaddress
import socket
import ssl
import time
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
    except TimeoutError:
        raise ImageError(f"{shown}: not fetched within {fetching.seconds:g} s") from None
    except (OSError, http.client.HTTPException, UnicodeError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
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
    connection = _connect(parts, fetching, deadline)
    try:
        path = parts.path or "/"
        connection.request("GET", f"{path}?{parts.query}" if parts.query else path)
        response = connection.getresponse()
        if response.status in REDIRECTS and (target := response.getheader("Location")):
            return b"", target
        if response.status != 200:
            raise ImageError(
                f"{url[:LONGEST_SHOWN]}: the server answers {response.status} {response.reason}"
            )
        return _read(response, connection, fetching, deadline), None
    finally:
        connection.close()


def _read(
    response: http.client.HTTPResponse,
    connection: http.client.HTTPConnection,
    fetching: Fetching,
    deadline: float,
) -> bytes:
    """All of it, unless it is too long or takes too long."""
    content = bytearray()
    while True:
        if connection.sock is not None:
            connection.sock.settimeout(_left(deadline))
        chunk = response.read1(CHUNK)
        _left(deadline)
        if not chunk:
            return bytes(content)
        content += chunk
        if len(content) > fetching.max_bytes:
            raise ImageError(f"the image is over {fetching.max_bytes} bytes, the limit for one")


def _connect(parts: SplitResult, fetching: Fetching, deadline: float) -> http.client.HTTPConnection:
    """A connection to an address of the host that may be asked."""
    assert parts.hostname is not None
    port = parts.port or (443 if parts.scheme == "https" else 80)
    addresses = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    address = str(addresses[0][4][0])
    if not fetching.private:
        for entry in addresses:
            check_public(parts.hostname, str(entry[4][0]))
    connection = http.client.HTTPConnection(parts.hostname, port)
    raw = socket.create_connection((address, port), timeout=_left(deadline))
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection.sock = context.wrap_socket(raw, server_hostname=parts.hostname)
    else:
        connection.sock = raw
    return connection


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
