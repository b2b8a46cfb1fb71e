"""A recording spoken into a realtime session, piece by piece."""

import base64
import json
from typing import Any

from websockets.asyncio.client import connect

from antiphon.benchmarks.service.nuisances import WrongAnswer
from antiphon.inputs.audio.forms import load_audio

RATE = 24_000  # of the API
PIECE_BYTES = RATE // 5 * 2  # a fifth of a second
PREFIX = "conversation.item.input_audio_transcription"


def samples_of(content: bytes) -> bytes:
    """A recording's samples as sessions take them: 16-bit, mono."""
    samples = load_audio(content, RATE)
    return (samples.clip(-1, 1) * 32767).astype("<i2").tobytes()


async def spoken(url: str, model: str, samples: bytes) -> tuple[str, str]:
    """The transcript of `samples`, and its pieces together. Raises WrongAnswer."""
    address = f"{url.replace('http', 'ws', 1)}/v1/realtime?intent=transcription&model={model}"
    async with connect(address, max_size=None) as session:

        async def send(kind: str, **fields: str) -> None:
            await session.send(json.dumps({"type": f"input_audio_buffer.{kind}", **fields}))

        for begin in range(0, len(samples), PIECE_BYTES):
            piece = samples[begin : begin + PIECE_BYTES]
            await send("append", audio=base64.b64encode(piece).decode())
        await send("commit")
        pieces: list[str] = []
        async for text in session:
            event: dict[str, Any] = json.loads(text)
            if event["type"] == f"{PREFIX}.completed":
                return event["transcript"], "".join(pieces)
            if event["type"] == f"{PREFIX}.delta":
                pieces.append(event["delta"])
            elif event["type"] in ("error", f"{PREFIX}.failed"):
                raise WrongAnswer(f"a session says {event['error']}")
    raise WrongAnswer("a session ended before its transcript")
