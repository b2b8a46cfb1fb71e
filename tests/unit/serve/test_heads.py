"""Heads of requests that are too long, or never end, and what is within the limits; of answers."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from unittest.mock import Mock, call

import httpx
import pytest
from http_server import Running, running_server

from antiphon.serve import heads
from antiphon.serve.heads import MOST_BYTES, OnePacket
from antiphon.serve.settings import Limits

IDLE = 1.5


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    """Without a model."""
    with running_server({}, Limits(idle_seconds=IDLE)) as running:
        yield running


@pytest.fixture
def connection(server: Running) -> Iterator[socket.socket]:
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port), timeout=20) as opened:
        yield opened


def answer(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    content = b""
    while part := connection.recv(1 << 16):
        content += part
    return content


def get(size: int) -> bytes:
    """A request whose head has `size` bytes."""
    head = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx: "
    return head + b"y" * (size - len(head) - 4) + b"\r\n\r\n"


def test_a_head_within_the_limit(connection: socket.socket) -> None:
    connection.sendall(get(MOST_BYTES))
    assert answer(connection).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("begin", [b"GET /", b"GET / HTTP/1.1\r\nx: ", b"GET / HTTP/1.1\r\n"])
def test_a_head_without_an_end(connection: socket.socket, begin: bytes) -> None:
    """In its address, in one header, in many; the rest is not waited for."""
    more = b"a: b\r\n" if begin.endswith(b"\n") else b"y"
    sent = begin + more * (MOST_BYTES // len(more) + 1)
    connection.sendall(sent[: MOST_BYTES + 1])
    head, _, body = answer(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ")
    error = json.loads(body)["error"]
    assert error["message"] == f"the headers are over {MOST_BYTES} bytes"
    assert (error["type"], error["code"]) == ("invalid_request_error", "headers_too_large")
    assert b"x-request-id: req-" in head


@pytest.mark.parametrize("sent", [b"nonsense\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"\x16\x03\x01"])
def test_what_is_no_http(connection: socket.socket, sent: bytes) -> None:
    """A line, a version that is none, the beginning of TLS."""
    connection.sendall(sent)
    head, _, body = answer(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    error = json.loads(body)["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_http")
    assert b"x-request-id: req-" in head
    assert f"content-length: {len(body)}".encode() in head


def test_methods_that_an_endpoint_lacks(server: Running) -> None:
    reply = httpx.get(f"{server.url}/v1/completions")
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
    assert reply.json()["error"]["type"] == "not_found_error"


@pytest.mark.parametrize("sent", [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nhost: x\r\n"])
def test_a_client_that_says_no_more(connection: socket.socket, sent: bytes) -> None:
    began = time.monotonic()
    connection.sendall(sent)
    assert answer(connection) == b""
    assert time.monotonic() - began >= IDLE / 2


def test_the_second_request_of_a_connection_is_bounded_too(connection: socket.socket) -> None:
    connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
    assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")
    connection.sendall(b"GET /health HT")
    assert b"HTTP/1.1" not in answer(connection)


def test_a_large_body_is_no_head(server: Running) -> None:
    """In one piece and in many; refused for what it is, not for its size."""
    body = b"x" * (8 * MOST_BYTES)
    for content in (body, iter([body[:100]] * 2000)):
        reply = httpx.post(f"{server.url}/v1/completions", content=content, timeout=60)
        assert reply.status_code == 400


def test_trailers_without_an_end(connection: socket.socket) -> None:
    connection.sendall(
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        b"1\r\nx\r\n0\r\nx: "
    )
    time.sleep(0.1)
    connection.sendall(b"y" * (MOST_BYTES + 1))
    assert b"HTTP/1.1 431 " in answer(connection)


def test_an_answers_head_goes_with_its_body() -> None:
    """Or alone, where the body comes later; what follows goes at once."""

    async def run() -> None:
        transport = Mock(asyncio.Transport, is_closing=Mock(return_value=False))
        whole, late, none = (OnePacket(transport) for _ in range(3))
        whole.write(b"head")
        assert not transport.write.called
        whole.write(b"body")
        whole.write(b"more")
        late.write(b"head")
        await asyncio.sleep(0)
        late.write(b"body")
        assert transport.write.mock_calls == [
            call(b"headbody"), call(b"more"), call(b"head"), call(b"body"),
        ]  # fmt: skip
        transport.reset_mock()
        none.write(b"head")
        none.close()
        await asyncio.sleep(0)
        assert transport.write.mock_calls == [call(b"head")]
        assert transport.close.mock_calls == [call()]

    asyncio.run(run())


def test_a_server_writes_its_answers_so(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    written = list[list[bytes]]()

    class Watched(OnePacket):
        def __init__(self, transport: asyncio.Transport) -> None:
            calls = list[bytes]()
            written.append(calls)

            def write(content: bytes) -> None:
                calls.append(bytes(content))
                transport.write(content)

            super().__init__(Mock(wraps=transport, write=write))

    monkeypatch.setattr(heads, "OnePacket", Watched)
    assert httpx.get(f"{server.url}/health").status_code == 200
    ((packet,),) = written
    assert packet.startswith(b"HTTP/1.1 200")
    assert b"\r\n\r\n" in packet.rstrip()
