"""What the first recording of a kind costs, and later ones."""

import time
import wave
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from antiphon import Engine
from antiphon.config.sampling import SamplingParams
from antiphon.engine import life

VAD = {"vad_filter": True}


def measure_recordings(
    folder: Path, count: int, max_tokens: int, unprepared: str = ""
) -> dict[str, list[float]]:
    """CPU seconds of `count` recordings of each kind, by a whole engine in this process."""
    if unprepared:
        life.load_readers = lambda: None
    rng = np.random.default_rng(3)
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0)

    def sound() -> np.ndarray:
        return (rng.standard_normal(16_000) * 0.1).astype(np.float32)

    seconds: dict[str, list[float]] = {}
    with TemporaryDirectory() as scratch, Engine(str(folder), ray=False, device="cpu") as engine:
        time.sleep(1.0)  # a caller's first recording comes later than a program's next line
        for name, options in {"samples": {}, "file": {}, "voice activity": VAD}.items():
            seconds[name] = []
            for _ in range(count):
                source: Any = sound()
                if name == "file":
                    source = Path(scratch, "one.wav")
                    with wave.open(str(source), "wb") as file:
                        file.setparams((1, 2, 16_000, 0, "NONE", ""))
                        file.writeframes((sound() * 32767).astype("<i2").tobytes())
                began = time.process_time()
                engine.transcribe(source, language="en", params=params, **options)
                seconds[name].append(time.process_time() - began)
    return seconds
