"""Requests by hand, for clients that misbehave: they leave, read slowly, or send half of a body."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import httpx

PIECE_BYTES = 4096
RECEIVE_BUFFER = 4096  # of slow readers, so that the server's own buffers fill


def raw_request(url: str, method: str, path: str, **content: Any) -> bytes:
    """Head and body as they go over the wire. `content`: as httpx takes it."""
    request = httpx.Request(method, f"{url}{path}", **content)
    body = request.read()
    head = [f"{method} {request.url.raw_path.decode()} HTTP/1.1"]
    head += [f"{name}: {value}" for name, value in request.headers.items()]
    head.append("connection: close")
    return "\r\n".join([*head, "", ""]).encode() + body


@asynccontextmanager
async def connection(
    url: str, *, slow: bool = False
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection that breaks off at the end of the block, whatever is under way."""
    parts = urlsplit(url)
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    if slow:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    try:
        await asyncio.get_running_loop().sock_connect(sock, (parts.hostname, parts.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=PIECE_BYTES)
    except BaseException:
        sock.close()
        raise
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


class Asker:
    """Asks once more where a connection closed before any byte of the answer: a server may end an
    idle one just as a request begins in it. `closed` counts those."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http, self.closed = http, 0

    async def post(self, path: str, **content: Any) -> httpx.Response:
        """The whole answer. `content`: as httpx takes it, and can take it twice."""
        try:
            reply = await self._send(path, content)
        except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
            self.closed += 1
            reply = await self._send(path, content)
        try:
            await reply.aread()
        finally:
            await reply.aclose()
        return reply

    async def _send(self, path: str, content: dict[str, Any]) -> httpx.Response:
        request = self._http.build_request("POST", path, **content)
        return await self._http.send(request, stream=True)


async def read_slowly(reader: asyncio.StreamReader, pause: float, piece: int) -> bytes:
    """The whole answer, `piece` bytes at a time."""
    content = b""
    while received := await reader.read(piece):
        content += received
        await asyncio.sleep(pause)
    return content


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def events_of(answer: bytes) -> list[Any]:
    """The events of an answer over HTTP/1.1 in chunks; [DONE] is None. Raises ValueError where the
    chunks do not end."""
    _, _, rest = answer.partition(b"\r\n\r\n")
    body = b""
    while True:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            break
        body, rest = body + rest[:length], rest[length + 2 :]
    data = [line[6:] for line in body.decode().split("\n\n") if line]
    return [None if line == "[DONE]" else json.loads(line) for line in data]
