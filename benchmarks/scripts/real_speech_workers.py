"""Engines that transcribe on command, each in its own process; started by real_speech.py.

    python real_speech_workers.py ENGINE MODEL PRECISION STARTED OPTIONS

Writes a first line of JSON, `{"ready": seconds since STARTED, "versions": {…}}`. Then answers each
line `{"mode": …, "round": …, "files": […]}` of standard input with `{"seconds": …, "texts": […]}`.
The engine `faster-whisper` may run under an interpreter without Antiphon.
"""

import itertools
import json
import sys
import time
from collections.abc import Callable
from typing import Any

Transcribe = Callable[[str, int, list[str]], list[str]]  # mode, round, files -> texts
RATE = 16_000


def antiphon(
    model: str, precision: str, options: dict[str, Any]
) -> tuple[Transcribe, dict[str, str]]:
    import torch

    from antiphon import Engine
    from antiphon.inputs.audio.forms import load_audio

    quantization = "int8" if precision == "int8" else "none"
    dtype = "bfloat16" if precision == "bfloat16" else "auto"
    engine = Engine(model, quantization=quantization, dtype=dtype, **options)
    calls = itertools.count(1)

    def transcribe(mode: str, number: int, files: list[str]) -> list[str]:
        # The engine caches what it has encoded: samples change a little from call to call.
        sounds, change = [], 1e-6 * next(calls)
        for file in files:
            samples = load_audio(file, RATE).copy()
            samples[0] += change
            sounds.append((samples, RATE))
        how = {"beam_size": 5} if mode == "default" else {"temperature": 0}
        results = engine.transcribe_all(sounds, language="en", timestamps=mode != "text", **how)
        for result in results:
            if isinstance(result, Exception):
                raise result
        return [result.text for result in results]

    return transcribe, {"torch": torch.__version__}


def faster_whisper(
    model: str, precision: str, options: dict[str, Any]
) -> tuple[Transcribe, dict[str, str]]:
    import ctranslate2
    import faster_whisper as library

    loaded = library.WhisperModel(model, device="cpu", compute_type=precision, **options)
    batched = library.BatchedInferencePipeline(loaded)
    greedy = {"beam_size": 1, "temperature": 0.0}

    def transcribe(mode: str, number: int, files: list[str]) -> list[str]:
        texts = []
        for file in files:
            if mode == "batched":
                segments, _ = batched.transcribe(file, language="en", batch_size=16, **greedy)
            else:
                segments, _ = loaded.transcribe(
                    file, language="en", **(greedy if mode == "greedy" else {})
                )
            texts.append(" ".join(segment.text.strip() for segment in segments))
        return texts

    return transcribe, {
        "faster-whisper": library.__version__,
        "ctranslate2": ctranslate2.__version__,
    }


ENGINES = {"antiphon": antiphon, "faster-whisper": faster_whisper}


def main() -> None:
    engine, model, precision, started, options = sys.argv[1:]
    replies, sys.stdout = sys.stdout, sys.stderr
    transcribe, versions = ENGINES[engine](model, precision, json.loads(options))
    print(
        json.dumps({"ready": time.time() - float(started), "versions": versions}),
        file=replies,
        flush=True,
    )
    for line in sys.stdin:
        command = json.loads(line)
        began = time.perf_counter()
        texts = transcribe(command["mode"], command["round"], command["files"])
        print(
            json.dumps({"seconds": time.perf_counter() - began, "texts": texts}),
            file=replies,
            flush=True,
        )


if __name__ == "__main__":
    main()
