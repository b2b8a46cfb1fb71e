"""What tests of /v1/realtime say and hear, through openai's client."""

import base64
from functools import cache
from typing import Any

import numpy as np
import pytest
from paths import RECORDINGS

RATE = 24_000
PREFIX = "conversation.item.input_audio_transcription"
TRANSCRIPTION = {"intent": "transcription"}
OPENAIS_WEBSOCKETS = pytest.mark.filterwarnings(
    "ignore:connect.. must be used as a context manager:DeprecationWarning"
)


@cache
def samples(name: str) -> bytes:
    """16-bit mono samples at 24 kHz."""
    import av

    resampler = av.AudioResampler("s16", "mono", RATE)
    with av.open(str(RECORDINGS / name)) as container:
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    frames += resampler.resample(None)
    return b"".join(frame.to_ndarray().astype(np.int16).tobytes() for frame in frames)


CALL, WECKER = "call.wav", "wecker.wav"


def send(connection: Any, sound: bytes, size: int = 9999) -> None:
    """In pieces, not all of whole samples."""
    for begin in range(0, len(sound), size):
        piece = base64.b64encode(sound[begin : begin + size]).decode()
        connection.input_audio_buffer.append(audio=piece)


def until(connection: Any, kind: str) -> list[Any]:
    """The events up to the first of this kind."""
    events = []
    while not events or events[-1].type != kind:
        events.append(connection.recv())
    return events


def settings(**transcription: Any) -> dict[str, Any]:
    sound = {"format": {"type": "audio/pcm", "rate": RATE}, "turn_detection": None}
    return {"type": "transcription", "audio": {"input": {**sound, "transcription": transcription}}}
