"""What the first call of a kind costs, and later ones, by a whole engine in this process.

A script: `first_calls.py KIND MODEL COUNT`. With the further argument `unprepared`, a start makes
no frontend ready.
"""

import base64
import io
import json
import struct
import sys
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image, fromarray

from antiphon import Engine
from antiphon.config.sampling import SamplingParams
from antiphon.engine import life

GREEDY = SamplingParams(temperature=0.0, max_tokens=4)
SIDE = 64  # pixels of a picture
Calls = dict[str, Callable[[Engine], object]]
rng = np.random.default_rng(3)


def measure_calls(
    kind: str, folder: Path, count: int, unprepared: str = ""
) -> dict[str, list[float]]:
    """CPU seconds of `count` calls of each kind that `kind` of checkpoint takes, in the order of
    their first use."""
    if unprepared:
        life.warm_up = lambda *_: None
    seconds: dict[str, list[float]] = {}
    with Engine(str(folder), ray=False, device="cpu") as engine:
        for _ in range(count):
            for name, call in CALLS[kind]().items():
                began = time.process_time()
                call(engine)
                seconds.setdefault(name, []).append(time.process_time() - began)
    return seconds


def words() -> str:
    return f"How many are {rng.integers(1000)} and {rng.integers(1000)}?"


def picture() -> Image:
    return fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8))


def file(format_: str) -> bytes:
    content = io.BytesIO()
    picture().save(content, format_)
    return content.getvalue()


def chats() -> Calls:
    def about(image: Any) -> Callable[[Engine], object]:
        parts = [{"type": "image", "image": image}, {"type": "text", "text": words()}]
        return lambda engine: engine.chat([{"role": "user", "content": parts}], GREEDY)

    uri = f"data:image/png;base64,{base64.b64encode(file('PNG')).decode()}"
    text = {"messages": [{"role": "user", "content": words()}]}
    return {
        "PNG": about(file("PNG")),
        "JPEG": about(file("JPEG")),
        "data URI": about(uri),
        "PIL": about(picture()),
        **texts(),
        "chat of text": lambda engine: engine.generate(text, GREEDY),
        "streamed chat": lambda engine: list(engine.stream(text, GREEDY)),
    }


def lines() -> Calls:
    """Of text, in pictures."""

    def of(image: Any) -> Callable[[Engine], object]:
        return lambda engine: engine.generate({"multi_modal_data": {"image": image}}, GREEDY)

    return {"PNG": of(file("PNG")), "JPEG": of(file("JPEG")), "PIL": of(picture())}


def texts() -> Calls:
    return {
        "completion": lambda engine: engine.generate(words(), GREEDY),
        "stream": lambda engine: list(engine.stream(words(), GREEDY)),
    }


def recordings() -> Calls:
    def of(source: Any, **options: Any) -> Callable[[Engine], object]:
        params = SamplingParams(max_tokens=8, temperature=0.0)
        options = {"language": "en", "params": params, **options}
        return lambda engine: engine.transcribe(source, **options)

    return {
        "samples": of(sound()),
        "file": of(wav(sound())),
        "other file": of(au(sound())),
        "other rate": of((sound(), 44_100)),
        "voice activity": of(sound(), vad_filter=True),
        "words": of(sound(), word_timestamps=True),
        "timestamps": of(sound(), timestamps=True),
        "beams": of(sound(), params=SamplingParams(beam_size=3, max_tokens=8, temperature=0.0)),
        "any language": of(sound(), language=None),
        "language": lambda engine: engine.detect_language(sound()),
    }


def sound() -> np.ndarray:
    return (rng.standard_normal(16_000) * 0.1).astype(np.float32)


def wav(samples: np.ndarray) -> bytes:
    content = io.BytesIO()
    with wave.open(content, "wb") as written:
        written.setparams((1, 2, 16_000, 0, "NONE", ""))
        written.writeframes((samples * 32767).astype("<i2").tobytes())
    return content.getvalue()


def au(samples: np.ndarray) -> bytes:
    """A file that FFmpeg reads, made without it."""
    content = (samples * 32767).astype(">i2").tobytes()
    return struct.pack(">4s5I", b".snd", 24, len(content), 3, 16_000, 1) + content


CALLS: dict[str, Callable[[], Calls]] = {
    "chats": chats,
    "lines": lines,
    "texts": texts,
    "recordings": recordings,
}

if __name__ == "__main__":
    kind, folder, count, *unprepared = sys.argv[1:]
    print(json.dumps(measure_calls(kind, Path(folder), int(count), *unprepared)))
