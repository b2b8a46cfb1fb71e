"""Images behind addresses: what may be fetched, and the limits."""

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from http_files import QuietHandler, serving
from PIL import Image

from antiphon.config.errors import ImageError
from antiphon.config.options import resolve
from antiphon.inputs.images.forms import read_image
from antiphon.inputs.images.limits import Fetching, ImageLimits
from antiphon.inputs.images.remote import check_public, fetch

NAMES = frozenset({"127.0.0.1", "photos.example"})
HERE = Fetching(NAMES, private=True, max_bytes=1000, seconds=5.0, redirects=2)


class Handler(QuietHandler):
    def drip(self, content: bytes, seconds: float = 0.05) -> None:
        with suppress(OSError):  # nobody reads it any more
            for byte in content:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(seconds)

    def do_GET(self) -> None:
        name, _, number = self.path[1:].partition("/")
        if name == "hop":
            left = int(number)
            self.send_response(302)
            self.send_header("Location", f"/hop/{left - 1}" if left > 1 else "/bytes/10")
            self.end_headers()
        elif name == "bytes":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x" * int(number))
        elif name == "drip":
            self.send_response(200)
            self.end_headers()
            self.drip(b"x" * 1200)
        elif name == "drip-of-head":
            self.drip(b"HTTP/1.0 200 OK\r\nx-more: " + b"x" * 1200)
        elif name == "drip-of-chunk":
            self.drip(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", 0)
            self.drip(b"1;" + b"x" * 1200)
        elif name == "out":
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
        elif name == "elsewhere":
            self.send_response(302)
            self.send_header("Location", "http://other.example/")
            self.end_headers()
        elif name == "picture":
            self.send_response(200)
            self.end_headers()
            Image.new("RGB", (3, 2)).save(self.wfile, "PNG")
        else:
            self.send_error(404)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(Handler) as address:
        yield address


def test_what_is_within_the_limits(address: str) -> None:
    assert fetch(f"{address}/bytes/1000", HERE) == b"x" * 1000
    assert fetch(f"{address}/hop/2", HERE) == b"x" * 10
    assert fetch(f"{address.replace('http', 'HTTP')}/bytes/10", HERE) == b"x" * 10


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("bytes/1001", "over 1000 bytes"),
        ("hop/3", "more than 2 redirects"),
        ("nothing", "answers 404"),
        ("out", "only http and https"),
        ("elsewhere", "other.example: not among the hosts"),
    ],
)
def test_what_passes_a_limit(address: str, path: str, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        fetch(f"{address}/{path}", HERE)


@pytest.mark.parametrize("path", ["drip", "drip-of-head", "drip-of-chunk"])
def test_a_server_that_sends_slowly(address: str, path: str) -> None:
    began = time.monotonic()
    with pytest.raises(ImageError, match=r"within 0\.3 s"):
        fetch(f"{address}/{path}", replace(HERE, seconds=0.3))
    assert time.monotonic() - began < 20


def test_a_server_of_names_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers.wait(60))
    began = time.monotonic()
    with pytest.raises(ImageError, match=r"within 0\.3 s"):
        fetch("http://photos.example/", replace(HERE, seconds=0.3))
    assert time.monotonic() - began < 20
    answers.set()


def test_a_connection_without_tls_is_closed(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connections = list[socket.socket]()

    def connect(target: tuple[str, int], timeout: float) -> socket.socket:
        connections.append(_connect(target, timeout))
        return connections[-1]

    def refuse(*_: object, **__: object) -> None:
        raise ssl.SSLError("no such version")

    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", refuse)
    with pytest.raises(ImageError, match="no such version"):
        fetch(address.replace("http:", "https:"), HERE)
    assert [connection.fileno() for connection in connections] == [-1]


def test_addresses_of_this_machine_are_not_fetched_unless_that_is_allowed(address: str) -> None:
    with pytest.raises(ImageError, match=r"127\.0\.0\.1, which is no public address"):
        fetch(f"{address}/bytes/1", replace(HERE, private=False))
    with pytest.raises(ImageError, match="not fetched here"):
        fetch(f"{address}/bytes/1", Fetching())


def test_names_that_lead_to_addresses_of_this_machine(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection goes to the address that was checked: the name is looked up once."""
    port, looked_up = urlsplit(address).port, list[str]()

    def look_up(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        looked_up.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(socket, "create_connection", _connect)
    url = f"http://Photos.example:{port}/bytes/5"
    with pytest.raises(ImageError, match=r"photos\.example is 127\.0\.0\.1, which is no public"):
        fetch(url, replace(HERE, private=False))
    assert looked_up == ["photos.example"]
    with pytest.raises(ImageError, match=r"x\.photos\.example: not among"):
        fetch(f"http://x.photos.example:{port}/", HERE)
    assert looked_up == ["photos.example"]
    assert fetch(url, HERE) == b"xxxxx"
    assert fetch(url, replace(HERE, hosts=frozenset("*"))) == b"xxxxx"


def _connect(target: tuple[str, int], timeout: float) -> socket.socket:
    """By number alone: no name is looked up for the second time."""
    ipaddress.ip_address(target[0])
    connection = socket.socket()
    connection.settimeout(timeout)
    connection.connect(target)
    return connection


def test_options_say_what_is_fetched(address: str) -> None:
    for hosts, own in (
        (None, frozenset()),
        ("A.example, b.example.", {"a.example", "b.example"}),
        (["a.example", "b.example"], {"a.example", "b.example"}),  # as vLLM has it
        ("*", {"*"}),
    ):
        config = resolve("x", {"allowed_media_domains": hosts})
        assert ImageLimits.of(config.model).fetching == Fetching(frozenset(own))
    options = {"allowed_media_domains": "127.0.0.1", "allow_private_media": True}
    fetching = ImageLimits.of(resolve("x", options).model).fetching
    image = read_image(f"{address}/picture", fetching)
    assert image.size == (3, 2)
    with pytest.raises(ImageError, match="not readable as an image"):
        read_image(f"{address}/bytes/9", fetching)


@pytest.mark.parametrize(
    "private",
    ["10.0.0.1", "192.168.1.1", "172.16.0.9", "169.254.169.254", "127.8.8.8", "0.0.0.0", "::1",
     "fe80::1%eth0", "fd00::1", "::ffff:10.0.0.1", "224.0.0.1", "100.64.0.1"],
)  # fmt: skip
def test_private_addresses(private: str) -> None:
    with pytest.raises(ImageError, match="no public address"):
        check_public("host", private)
    check_public("host", "93.184.216.34")
    check_public("host", "2606:2800:220:1::1")
