"""Clients that leave, send nonsense or too much, or never read; and what all clients send."""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from antiphon.benchmarks.service.wire import Asker, connection, raw_request

TIMEOUT = 240.0  # seconds of one request: a worker that was killed comes back within


class WrongAnswer(Exception):
    """An answer is not what it should be."""


@dataclass(frozen=True)
class Material:
    """For clients of a server with a model that listens (`ears`) and one that reads (`reader`).

    `recordings`: content by file name. `texts`: prompts. `limit`: bytes that an upload may have.
    """

    url: str
    ears: str
    reader: str
    recordings: Mapping[str, bytes]
    texts: Sequence[str]
    limit: int
    draw: random.Random

    def recording(self) -> str:
        return self.draw.choice(list(self.recordings))

    def text(self) -> str:
        return self.draw.choice(self.texts)

    def form(self, name: str, **fields: str) -> dict[str, Any]:
        return {
            "data": {"model": self.ears, **fields},
            "files": {"file": (name, self.recordings[name])},
        }

    def prompt(self, text: str, **fields: Any) -> dict[str, Any]:
        return {"model": self.reader, "prompt": text, **fields}

    def any_request(self) -> bytes:
        """As it goes over the wire, in full."""
        stream = self.draw.random() < 0.5
        if self.draw.random() < 0.5:
            form = self.form(self.recording(), **({"stream": "true"} if stream else {}))
            return raw_request(self.url, "POST", "/v1/audio/transcriptions", **form)
        body = self.prompt(self.text(), stream=stream)
        return raw_request(self.url, "POST", "/v1/completions", json=body)


@dataclass(frozen=True)
class Blanks:
    """A body of so many bytes, whose length is not told before."""

    size: int

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for begin in range(0, self.size, 1 << 16):
            yield b" " * min(1 << 16, self.size - begin)


class Nuisances:
    """Raise WrongAnswer where the server does not refuse what it should."""

    def __init__(self, material: Material, asker: Asker) -> None:
        self._of, self._draw, self._asker = material, material.draw, asker

    async def leaves(self) -> None:
        """Somewhere in its request, or while it waits, or inside the answer."""
        request = self._of.any_request()
        async with connection(self._of.url) as (reader, writer):
            if self._draw.random() < 0.4:
                writer.write(request[: self._draw.randrange(1, len(request))])
                await asyncio.sleep(self._draw.uniform(0, 0.1))
                return
            writer.write(request)
            if self._draw.random() < 0.5:
                await asyncio.sleep(self._draw.uniform(0, 0.5))
            else:
                await asyncio.wait_for(reader.read(16), TIMEOUT)

    async def never_reads(self) -> None:
        async with connection(self._of.url, slow=True) as (_, writer):
            writer.write(self._of.any_request())
            await asyncio.sleep(self._draw.uniform(1, 4))

    async def malformed(self) -> None:
        """Each must be refused with status 400, or 404 for a model that is not there."""
        json_type = {"content-type": "application/json"}
        name = self._of.recording()
        broken = {"content-type": "multipart/form-data; boundary=x"}
        refused: list[tuple[str, dict[str, Any], int]] = [
            ("/v1/completions", {"content": b'{"prompt": ', "headers": json_type}, 400),
            ("/v1/completions", {"content": b"\xff\xfe", "headers": json_type}, 400),
            ("/v1/completions", {"json": self._of.prompt("x", temperature="hot")}, 400),
            ("/v1/completions", {"json": self._of.prompt("x", tempreature=1)}, 400),
            ("/v1/completions", {"json": {"model": "nobody", "prompt": "x"}}, 404),
            ("/v1/completions", {"json": [1, 2]}, 400),
            ("/v1/chat/completions", {"json": {"model": self._of.ears, "messages": []}}, 400),
            ("/v1/audio/transcriptions", {"content": b"--y\r\n", "headers": broken}, 400),
            ("/v1/audio/transcriptions", {"json": {}}, 400),
            ("/v1/audio/transcriptions", {"data": {"model": self._of.ears}}, 400),
            ("/v1/audio/transcriptions", self._of.form(name, response_format="xml"), 400),
            (
                "/v1/audio/transcriptions",
                {"data": {"model": self._of.ears}, "files": {"file": ("x.wav", b"no sound" * 50)}},
                400,
            ),
        ]
        path, content, status = self._draw.choice(refused)
        reply = await self._asker.post(path, **content)
        if reply.status_code != status or "message" not in reply.json()["error"]:
            raise WrongAnswer(f"{path} {content}: {reply.status_code} {reply.text[:300]}")

    async def oversized(self) -> None:
        size = self._of.limit + self._draw.randrange(1, 1 << 16)
        if self._draw.random() < 0.5:
            files = {"file": ("big.wav", bytes(size))}
            data = {"model": self._of.ears}
            reply = await self._asker.post("/v1/audio/transcriptions", data=data, files=files)
        else:  # without a length: it shows only while it is read
            headers = {"content-type": "application/json"}
            content = Blanks(size)
            reply = await self._asker.post("/v1/completions", content=content, headers=headers)
        if reply.status_code != 413:
            raise WrongAnswer(f"{size} bytes: status {reply.status_code} {reply.text[:300]}")
